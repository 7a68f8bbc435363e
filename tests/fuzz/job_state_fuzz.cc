// Fuzz target: any bytes as parts of a job's state (pipeline/job_state.h, block_state.h): as they
// are, and with right checksums. The first byte chooses the part. Whatever is accepted is written
// again and read back the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "pipeline/block_state.h"
#include "pipeline/job_state.h"
#include "tests/storage/memory_objects.h"

namespace {

using cvxq::ArchiveReader;
using cvxq::ArchiveWriter;
using cvxq::Status;

void Check(bool holds) {
  if (!holds) std::abort();
}

// Reads object "in" as a part; what was accepted is written as "out", which must be the same.
template <typename Load, typename Save>
void RoundTrip(cvxq::MemoryObjects& objects, const Load& load, const Save& save) {
  auto reader = ArchiveReader::Open(objects, "in");
  if (!reader.ok()) {
    Check(absl::IsDataLoss(reader.status()));
    return;
  }
  const Status status = load(**reader);
  if (!status.ok()) {
    Check(absl::IsDataLoss(status));
    return;
  }
  ArchiveWriter writer(*objects.Create("out", 0));
  Check(save(writer).ok());
  Check(objects.objects["in"] == objects.objects["out"]);
}

void Parse(int part, std::string bytes) {
  cvxq::MemoryObjects objects;
  objects.objects["in"] = std::move(bytes);
  cvxq::SpillStore store("/nonexistent", int64_t{1} << 30);
  const auto whole = [](ArchiveReader& reader, Status status) {
    return status.ok() ? reader.Finish() : status;
  };
  const auto committed = [](ArchiveWriter& writer, Status status) {
    return status.ok() ? writer.Commit() : status;
  };
  if (part == 0) {
    cvxq::JobCommit commit;
    RoundTrip(
        objects, [&](ArchiveReader& reader) { return LoadCommit(reader, commit); },
        [&](ArchiveWriter& writer) { return SaveCommit(commit, writer); });
  } else if (part == 1) {
    cvxq::BlockGradients gradients;
    RoundTrip(
        objects,
        [&](ArchiveReader& reader) { return whole(reader, LoadGradients(reader, gradients)); },
        [&](ArchiveWriter& writer) { return committed(writer, SaveGradients(gradients, writer)); });
  } else if (part == 2) {
    cvxq::BlockOutputs outputs;
    RoundTrip(
        objects,
        [&](ArchiveReader& reader) { return whole(reader, LoadOutputs(reader, store, outputs)); },
        [&](ArchiveWriter& writer) {
          return committed(writer, SaveOutputs(outputs, store, writer));
        });
  } else {
    cvxq::BlockInputs inputs;
    RoundTrip(
        objects,
        [&](ArchiveReader& reader) { return whole(reader, LoadInputs(reader, store, inputs)); },
        [&](ArchiveWriter& writer) {
          return committed(writer, SaveInputs(inputs, store, writer));
        });
  }
}

// The bytes as arrays with right checksums: for each two bytes of its size, then so many of it.
std::string AsArchive(const uint8_t* data, size_t size) {
  cvxq::MemoryObjects objects;
  ArchiveWriter writer(*objects.Create("made", 0));
  while (size >= 2) {
    uint16_t claimed = 0;
    std::memcpy(&claimed, data, sizeof(claimed));
    data += 2;
    size -= 2;
    const size_t count = std::min<size_t>(claimed, size);
    Check(writer.Put(std::vector<uint8_t>(data, data + count)).ok());
    data += count;
    size -= count;
  }
  Check(writer.Commit().ok());
  return objects.objects["made"];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const int part = data[0] % 4;
  Parse(part, std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  Parse(part, AsArchive(data + 1, size - 1));
  return 0;
}
