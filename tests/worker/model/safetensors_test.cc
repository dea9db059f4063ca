#include "worker/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/worker/model/safetensors_writer.h"
#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string WellFormed() {
  SafetensorsWriter writer;
  writer.Add<float>("a", "F32", {2, 3}, {1, 2, 3, 4, 5, 6});
  writer.Add<uint16_t>("b", "BF16", {2}, {7, 8});
  writer.Add<uint16_t>("empty", "F16", {0, 5}, {});
  writer.Add<float>("scalar", "F32", {}, {9});
  return writer.Bytes();
}

TEST(Safetensors, ReadsWhatTheHeaderSays) {
  const TempFolder temp;
  const auto file = SafetensorsFile::Open(temp.Write("m.safetensors", WellFormed()));
  ASSERT_TRUE(file.ok()) << file.status();
  std::map<std::string, const StoredTensor*> tensors;
  for (const StoredTensor& tensor : (*file)->tensors()) tensors[tensor.name] = &tensor;
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors["a"]->shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(tensors["a"]->dtype, "F32");
  float last;
  std::memcpy(&last, tensors["a"]->data + 20, 4);
  EXPECT_EQ(last, 6.0f);
  EXPECT_EQ(tensors["b"]->num_bytes, 4u);
  EXPECT_EQ(tensors["empty"]->num_bytes, 0u);
  EXPECT_EQ(tensors["scalar"]->shape.size(), 0u);
  EXPECT_EQ(tensors["b"]->file_offset, tensors["a"]->file_offset + 24);
}

TEST(Safetensors, MetadataIsNoTensor) {
  const TempFolder temp;
  const auto file = SafetensorsFile::Open(temp.Write(
      "m",
      SafetensorsBytes(
          R"({"__metadata__":{"format":"pt"},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          "z")));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 1u);
}

struct BadFile {
  const char* what;
  std::string bytes;
  std::vector<std::string> words;
};

std::string Tensor(const std::string& body, size_t data_bytes = 8) {
  return SafetensorsBytes("{\"t\":" + body + "}", std::string(data_bytes, 'x'));
}

std::vector<BadFile> BadFiles() {
  const std::string nested = std::string(100, '[') + std::string(100, ']');
  return {
      {"empty", "", {"0 bytes", "too short"}},
      {"short", "1234567", {"7 bytes"}},
      {"length beyond the file",
       std::string("\x10\0\0\0\0\0\0\0{}", 10),
       {"claims 16 bytes", "holds 2"}},
      {"length of 2^64 - 1", std::string(8, '\xff') + "{}", {"claims 18446744073709551615"}},
      {"not JSON", SafetensorsBytes("{\"t\":", ""), {"header", "not valid JSON"}},
      {"not UTF-8", SafetensorsBytes("{\"\xff\xfe\":1}", ""), {"not valid JSON"}},
      {"not an object", SafetensorsBytes("[1]", ""), {"JSON object", "[1]"}},
      {"nested", SafetensorsBytes("{\"t\":" + nested + "}", ""), {"deeper than 8"}},
      {"name twice",
       SafetensorsBytes(
           R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
           "xx"),
       {"\"t\"", "twice"}},
      {"no dtype",
       Tensor(R"({"shape":[2],"data_offsets":[0,8]})"),
       {"tensor \"t\"", "dtype, shape and data_offsets"}},
      {"extra field",
       Tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"),
       {"tensor \"t\""}},
      {"tensor is a list", Tensor("[]"), {"tensor \"t\""}},
      {"unknown dtype",
       Tensor(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})"),
       {"\"t\"", "dtype", "F33"}},
      {"dtype is a number", Tensor(R"({"dtype":4,"shape":[2],"data_offsets":[0,8]})"), {"dtype 4"}},
      {"shape is a number",
       Tensor(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
       {"shape", "2"}},
      {"negative size",
       Tensor(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
       {"impossible shape [-2]"}},
      {"fractional size",
       Tensor(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
       {"impossible shape [2.0]"}},
      {"product overflows",
       Tensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"),
       {"impossible shape [4294967296,4294967296]"}},
      {"product overflows to the right size",
       Tensor(R"({"dtype":"U8","shape":[9223372036854775812,2],"data_offsets":[0,8]})"),
       {"impossible shape"}},
      {"rank",
       Tensor(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]})"),
       {"at most 8"}},
      {"size and offsets differ",
       Tensor(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
       {"takes 12", "span 8"}},
      {"one offset",
       Tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8]})"),
       {"data_offsets", "[8]"}},
      {"backward",
       Tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
       {"[8,0]", "outside"}},
      {"truncated",
       Tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 7),
       {"\"t\"", "[0,8]", "7 bytes", "truncated"}},
      {"offset of 2^64 - 1",
       Tensor(
           R"({"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]})"),
       {"outside the 8 bytes"}},
      {"hole at the start",
       Tensor(R"({"dtype":"U8","shape":[4],"data_offsets":[4,8]})"),
       {"\"t\"", "holes"}},
      {"rest at the end",
       Tensor(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})"),
       {"4 bytes", "belong to no tensor"}},
      {"overlap",
       SafetensorsBytes(
           R"({"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"u":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
           "xxxx"),
       {"\"u\"", "overlap"}},
      {"sub-byte",
       Tensor(R"({"dtype":"F4","shape":[3],"data_offsets":[0,1]})", 1),
       {"inside a byte"}},
  };
}

TEST(Safetensors, BadFilesAreRefusedWithTheReason) {
  const TempFolder temp;
  for (const BadFile& bad : BadFiles()) {
    SCOPED_TRACE(bad.what);
    const std::string path = temp.Write("bad.safetensors", bad.bytes);
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(file.status().message());
    EXPECT_THAT(message, HasSubstr(path));
    for (const std::string& word : bad.words) EXPECT_THAT(message, HasSubstr(word));
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TempFolder temp;
  const std::string bytes = WellFormed();
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(SafetensorsFile::Open(temp.Write("cut", bytes.substr(0, length))).ok()) << length;
  }
}

// Whatever bytes change, the file is refused or every tensor lies inside it.
TEST(Safetensors, RandomDamageNeverLeadsOutside) {
  const TempFolder temp;
  std::mt19937_64 random(1);
  const std::string good = WellFormed();
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (uint64_t changes = random() % 4 + 1; changes > 0; --changes) {
      bytes[random() % bytes.size()] =
          static_cast<char>(random() % 3 == 0 ? "0123456789[]{},\":"[random() % 17] : random());
    }
    const auto file = SafetensorsFile::Open(temp.Write("damaged", bytes));
    if (!file.ok()) continue;
    unsigned sum = 0;  // under AddressSanitizer a byte outside the map would end the test
    for (const StoredTensor& tensor : (*file)->tensors()) {
      EXPECT_LE(tensor.file_offset + tensor.num_bytes, bytes.size());
      for (uint64_t i = 0; i < tensor.num_bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
    }
    EXPECT_LT(sum, 256u * bytes.size());
  }
}

TEST(Safetensors, MissingFileAndFolder) {
  const TempFolder temp;
  EXPECT_EQ(SafetensorsFile::Open(temp.path() + "/none").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(SafetensorsFile::Open(temp.path()).status().message()),
              HasSubstr("not a regular file"));
  EXPECT_EQ(Checkpoint::Open(temp.path()).status().code(), absl::StatusCode::kNotFound);
}

std::string OneTensor(const std::string& name) {
  SafetensorsWriter writer;
  writer.Add<float>(name, "F32", {1}, {1});
  return writer.Bytes();
}

TEST(Checkpoint, JoinsShards) {
  const TempFolder temp;
  temp.Write("one.safetensors", OneTensor("a"));
  temp.Write("two.safetensors", OneTensor("b"));
  temp.Write(
      "model.safetensors.index.json",
      R"({"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(temp.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_NE((*checkpoint)->Find("b"), nullptr);
  EXPECT_THAT((*checkpoint)->Find("b")->file->path(), HasSubstr("two.safetensors"));
  EXPECT_EQ((*checkpoint)->Find("c"), nullptr);
}

TEST(Checkpoint, BadIndexesAreRefusedWithTheReason) {
  const struct {
    const char* index;
    std::vector<std::string> words;
  } kCases[] = {
      {"{}", {"weight_map"}},
      {"not json", {"not valid JSON"}},
      {R"({"weight_map":[]})", {"weight_map"}},
      {R"({"weight_map":{"a":1}})", {"weight_map.a", "1"}},
      {R"({"weight_map":{"a":"../one.safetensors"}})",
       {"weight_map.a", "../one.safetensors", "same folder"}},
      {R"({"weight_map":{"a":"/etc/passwd"}})", {"/etc/passwd", "same folder"}},
      {R"({"weight_map":{"a":"none.safetensors"}})", {"none.safetensors", "cannot be opened"}},
      {R"({"weight_map":{"b":"one.safetensors"}})", {"puts b into one.safetensors", "lacks"}},
      {R"({"weight_map":{"a":"one.safetensors","b":"copy.safetensors"}})", {"tensor a", "as well"}},
  };
  for (const auto& bad : kCases) {
    SCOPED_TRACE(bad.index);
    const TempFolder temp;
    temp.Write("one.safetensors", OneTensor("a"));
    temp.Write("copy.safetensors", OneTensor("a"));
    temp.Write("model.safetensors.index.json", bad.index);
    const auto checkpoint = Checkpoint::Open(temp.path());
    ASSERT_FALSE(checkpoint.ok());
    for (const std::string& word : bad.words)
      EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(word));
  }
}

}  // namespace
}  // namespace quire
