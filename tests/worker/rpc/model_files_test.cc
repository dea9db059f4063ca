#include "worker/rpc/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/escaping.h"
#include "common/sha256.h"
#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

TEST(ModelFilesTest, ReadsTheFilesThatExist) {
  const TempFolder folder;
  folder.Write("config.json", "{}");
  folder.Write("chat_template.jinja", std::string("a\0b\r\n", 5));
  folder.Write("tokenizer.json", "");
  folder.Write("model.safetensors", "weights stay here");
  const auto files = ReadModelFiles(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(*files, ElementsAre(Pair("chat_template.jinja", std::string("a\0b\r\n", 5)),
                                  Pair("config.json", "{}"), Pair("tokenizer.json", "")));
}

TEST(ModelFilesTest, NamesWhatIsMissing) {
  const TempFolder folder;
  folder.Write("tokenizer.json", "{}");
  EXPECT_EQ(ReadModelFiles(folder.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ReadModelFiles(folder.path()).status().message(), HasSubstr("config.json"));
  EXPECT_THAT(ReadModelFiles("/nonexistent").status().message(), HasSubstr("/nonexistent"));
}

TEST(ModelFilesTest, NamesWhatIsNoFileOrTooLarge) {
  const TempFolder folder;
  folder.Write("config.json", "{}");
  std::filesystem::create_directory(folder.path() + "/tokenizer.json");
  EXPECT_THAT(ReadModelFiles(folder.path()).status().message(), HasSubstr("tokenizer.json"));
  std::filesystem::remove(folder.path() + "/tokenizer.json");

  const std::string large = folder.Write("generation_config.json", "");
  std::filesystem::resize_file(large, (uintmax_t{64} << 20) + 1);
  EXPECT_EQ(ReadModelFiles(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ReadModelFiles(folder.path()).status().message(),
              HasSubstr("generation_config.json"));
}

TEST(ModelFilesTest, DigestsAreSha256) {
  EXPECT_EQ(absl::BytesToHexString(Sha256Digest("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace quire
