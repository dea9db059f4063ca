// libFuzzer's mutator for inputs that are messages: changes a field, anywhere in the message, to a
// value that its type allows.
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/json_mutator.h"
#include "tests/fuzz/proto_input.h"

namespace quire {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Lists are grown to at most this many entries.
constexpr int kMaxEntries = 32;
constexpr size_t kMaxStringBytes = 300;

uint64_t MutateInteger(uint64_t value, FuzzRandom& random) {
  static constexpr uint64_t kOdd[] = {
      0,           1,    2,       3,        7,          8,          9,          16,
      20,          21,   63,      64,       65,         100,        101,        512,
      8191,        8192, 1 << 20, 1u << 30, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, ~uint64_t{0} >> 1,
      ~uint64_t{0}};
  switch (random() % 4) {
    case 0:
      return kOdd[random() % std::size(kOdd)];
    case 1:
      return value + 1;
    case 2:
      return value - 1;
    default:
      return random() % 8;
  }
}

double MutateNumber(double value, FuzzRandom& random) {
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  static const double kOdd[] = {0,      -0.0,  0.5,       1,          -1,          2,     -2,
                                2.0001, -2.1,  100,       -100,       100.5,       1e-45, 1e-30,
                                3.4e38, 1e300, kInfinity, -kInfinity, std::nan("")};
  return random() % 3 == 0 ? value * 1.5 : kOdd[random() % std::size(kOdd)];
}

// proto3 strings are UTF-8: others do not come over the wire.
std::string MutateString(const std::string& value, FuzzRandom& random) {
  if (random() % 16 == 0) return std::string(random() % kMaxStringBytes, 'x');
  std::string changed = MutateBytes(value, std::min(value.size() + 16, kMaxStringBytes));
  if (!IsUtf8(changed)) {
    for (char& c : changed) c = static_cast<char>(c & 0x7F);
  }
  return changed;
}

// One place in a message that can change.
struct Place {
  Message* message;
  const FieldDescriptor* field;
};

void Collect(Message* message, std::vector<Place>* places) {
  const auto* descriptor = message->GetDescriptor();
  const Reflection* reflection = message->GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    places->push_back({message, field});
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (field->is_repeated()) {
      for (int k = 0; k < reflection->FieldSize(*message, field); ++k) {
        Collect(reflection->MutableRepeatedMessage(message, field, k), places);
      }
    } else if (reflection->HasField(*message, field)) {
      Collect(reflection->MutableMessage(message, field), places);
    }
  }
}

// Sets the field, or entry `index` of it, to a changed value; index -1: adds one.
void MutateValue(const Place& place, int index, FuzzRandom& random) {
  Message* m = place.message;
  const FieldDescriptor* f = place.field;
  const Reflection* r = m->GetReflection();
  const bool one = !f->is_repeated();
  const bool add = f->is_repeated() && index < 0;
#define QUIRE_MUTATE(Name, Type, mutated)                          \
  {                                                                \
    const Type value = one   ? r->Get##Name(*m, f)                 \
                       : add ? Type()                              \
                             : r->GetRepeated##Name(*m, f, index); \
    const Type changed = static_cast<Type>(mutated);               \
    one   ? r->Set##Name(m, f, changed)                            \
    : add ? r->Add##Name(m, f, changed)                            \
          : r->SetRepeated##Name(m, f, index, changed);            \
    return;                                                        \
  }
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      QUIRE_MUTATE(Int32, int32_t, MutateInteger(value, random))
    case FieldDescriptor::CPPTYPE_INT64:
      QUIRE_MUTATE(Int64, int64_t, MutateInteger(value, random))
    case FieldDescriptor::CPPTYPE_UINT32:
      QUIRE_MUTATE(UInt32, uint32_t, MutateInteger(value, random))
    case FieldDescriptor::CPPTYPE_UINT64:
      QUIRE_MUTATE(UInt64, uint64_t, MutateInteger(value, random))
    case FieldDescriptor::CPPTYPE_FLOAT:
      QUIRE_MUTATE(Float, float, MutateNumber(value, random))
    case FieldDescriptor::CPPTYPE_DOUBLE:
      QUIRE_MUTATE(Double, double, MutateNumber(value, random))
    case FieldDescriptor::CPPTYPE_BOOL:
      QUIRE_MUTATE(Bool, bool, !value)
    case FieldDescriptor::CPPTYPE_ENUM:
      QUIRE_MUTATE(EnumValue, int, random() % 8 == 0 ? value + 99 : random() % 5)
    case FieldDescriptor::CPPTYPE_STRING:
      QUIRE_MUTATE(String, std::string, MutateString(value, random))
    case FieldDescriptor::CPPTYPE_MESSAGE:
      // Created, where there is none; what is in it is another place.
      one ? r->MutableMessage(m, f) : r->AddMessage(m, f);
      return;
  }
#undef QUIRE_MUTATE
}

void MutateList(const Place& place, FuzzRandom& random) {
  Message* m = place.message;
  const FieldDescriptor* f = place.field;
  const Reflection* r = m->GetReflection();
  const int size = r->FieldSize(*m, f);
  switch (size == 0 ? 0 : random() % 5) {
    case 0:
      if (size < kMaxEntries) MutateValue(place, -1, random);
      break;
    case 1:
      r->SwapElements(m, f, static_cast<int>(random() % size), size - 1);
      r->RemoveLast(m, f);
      break;
    case 2:
      r->SwapElements(m, f, static_cast<int>(random() % size), static_cast<int>(random() % size));
      break;
    case 3:
      if (f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {  // once more
        if (size >= kMaxEntries) break;
        const Message& entry = r->GetRepeatedMessage(*m, f, static_cast<int>(random() % size));
        std::unique_ptr<Message> copy(entry.New());
        copy->CopyFrom(entry);
        r->AddAllocatedMessage(m, f, copy.release());
        r->SwapElements(m, f, static_cast<int>(random() % (size + 1)), size);
        break;
      }
      [[fallthrough]];
    default:
      if (f->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
        MutateValue(place, static_cast<int>(random() % size), random);
      } else if (size < kMaxEntries) {
        MutateValue(place, -1, random);
      }
      break;
  }
}

void Mutate(Message* message, FuzzRandom& random) {
  std::vector<Place> places;
  Collect(message, &places);
  const Place& place = places[random() % places.size()];
  const Reflection* reflection = place.message->GetReflection();
  if (place.field->is_repeated()) return MutateList(place, random);
  if (reflection->HasField(*place.message, place.field) && random() % 4 == 0) {
    return reflection->ClearField(place.message, place.field);
  }
  MutateValue(place, 0, random);
}

size_t Write(const Message& message, uint8_t* data, size_t max_size) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(message, &text);
  if (text.size() > max_size) return 0;
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

}  // namespace
}  // namespace quire

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  quire::FuzzRandom random(seed);
  const auto message = quire::NewInput();
  if (!quire::ReadInput({reinterpret_cast<const char*>(data), size}, message.get())) {
    message->Clear();
  }
  for (uint32_t i = 0; i <= random() % 3; ++i) quire::Mutate(message.get(), random);
  return quire::Write(*message, data, max_size);
}

// Lists of the one go on with those of the other; its other fields win.
extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* first, size_t first_size,
                                            const uint8_t* second, size_t second_size, uint8_t* out,
                                            size_t max_size, unsigned int) {
  const auto message = quire::NewInput();
  const auto other = quire::NewInput();
  if (!quire::ReadInput({reinterpret_cast<const char*>(first), first_size}, message.get()) ||
      !quire::ReadInput({reinterpret_cast<const char*>(second), second_size}, other.get())) {
    return 0;
  }
  message->MergeFrom(*other);
  return quire::Write(*message, out, max_size);
}
