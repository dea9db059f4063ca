#include "worker/device/cuda/gemm/linear.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "worker/device/cuda/gemm/fp32_gemm.h"
#include "worker/device/cuda/gemm/trial.h"

namespace quire::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr size_t kAskedAlgorithms = 8;  // a number of rows
constexpr int kTimedAlgorithms = 4;     // of the exact ones
constexpr int kTimedRuns = 4;
// What a product by the library and the kernel for what follows it take, over the product alone.
constexpr float kFollowUp = 1.08f;

// Steps of up to so many rows are replayed as graphs, and so are their timings: a launch by itself
// would take longer than a short product.
constexpr uint32_t kMostReplayedRows = 256;
constexpr int kReplayedRuns = 16;
constexpr int kReplays = 3;
// Where the library is not exact. Split-K leaves each part's sums, in fp32, in the workspace.
constexpr size_t kFreeWorkspaceBytes = size_t{256} << 20;
constexpr size_t kAskedFreeAlgorithms = 32;

absl::Status LibraryStatus(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusString(status)));
}

struct LayoutDeleter {
  using pointer = cublasLtMatrixLayout_t;
  void operator()(cublasLtMatrixLayout_t layout) const { cublasLtMatrixLayoutDestroy(layout); }
};
using Layout = std::unique_ptr<void, LayoutDeleter>;

struct PreferenceDeleter {
  using pointer = cublasLtMatmulPreference_t;
  void operator()(cublasLtMatmulPreference_t preference) const {
    cublasLtMatmulPreferenceDestroy(preference);
  }
};
using Preference = std::unique_ptr<void, PreferenceDeleter>;

absl::StatusOr<Layout> MakeLayout(cudaDataType_t type, uint64_t rows, uint64_t cols) {
  cublasLtMatrixLayout_t layout = nullptr;
  absl::Status status = LibraryStatus(
      cublasLtMatrixLayoutCreate(&layout, type, rows, cols, static_cast<int64_t>(rows)),
      "cublasLtMatrixLayoutCreate");
  if (!status.ok()) return status;
  return Layout(layout);
}

// If exact without split-K: its parts would be summed in an order of their own.
absl::StatusOr<Preference> MakePreference(uint64_t workspace_bytes, bool exact) {
  cublasLtMatmulPreference_t preference = nullptr;
  absl::Status status =
      LibraryStatus(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  if (!status.ok()) return status;
  Preference made(preference);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    if (!status.ok()) return;
    status = LibraryStatus(
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t{exact ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_MASK});
  if (!status.ok()) return status;
  return made;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixLibrary>> MatrixLibrary::Create(bool exact) {
  std::unique_ptr<MatrixLibrary> library(new MatrixLibrary(exact));
  absl::Status status = LibraryStatus(cublasLtCreate(&library->handle_), "cublasLtCreate");
  if (!status.ok()) return status;
  absl::StatusOr<DeviceBuffer> workspace =
      DeviceBuffer::Create(exact ? kWorkspaceBytes : kFreeWorkspaceBytes, "cuBLASLt's workspace");
  if (!workspace.ok()) return workspace.status();
  library->workspace_ = *std::move(workspace);
  return library;
}

MatrixLibrary::~MatrixLibrary() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

// What computes up to `rows` rows, all of which it computes.
struct LinearShape::Choice {
  uint32_t rows = 0;
  Layout inputs;
  Layout outputs;
  cublasLtMatmulAlgo_t algorithm = {};
  // Of one run; where the library is not exact, of what follows it, too.
  float milliseconds = std::numeric_limits<float>::infinity();
};

// Compares what the library computes for random inputs with the reference, and times it.
class LinearShape::Contest {
 public:
  static absl::StatusOr<Contest> Create(const LinearShape& shape, const Trial& trial,
                                        cudaStream_t stream) {
    Contest contest(shape, trial, stream);
    absl::Status status;
    const auto make = [&](size_t bytes, const char* what, DeviceBuffer* out) {
      if (!status.ok()) return;
      absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Create(bytes, what);
      status = buffer.status();
      if (buffer.ok()) *out = *std::move(buffer);
    };
    const size_t bytes = PaddedRows(shape.spec_.max_rows) * contest.row_bytes();
    make(bytes, "a product's reference", &contest.reference_);
    make(bytes, "a product's trial", &contest.outputs_);
    make(sizeof(unsigned long long), "a count", &contest.differing_);
    if (!status.ok()) return status;
    absl::StatusOr<Event> begin = Event::CreateTimed();
    if (!begin.ok()) return begin.status();
    absl::StatusOr<Event> end = Event::CreateTimed();
    if (!end.ok()) return end.status();
    contest.begin_ = *std::move(begin);
    contest.end_ = *std::move(end);
    const cudaError_t error = contest.ComputeReference();
    if (error != cudaSuccess) return CudaStatus(error, "a matrix product's reference");
    return contest;
  }

  // Whether the choice's results for all of its rows are bitwise the reference's.
  absl::StatusOr<bool> IsExact(const Choice& choice) {
    auto* const differing = static_cast<unsigned long long*>(differing_.data());
    unsigned long long count = 0;
    cudaError_t error = cudaMemsetAsync(outputs_.data(), 0xFF, choice.rows * row_bytes(), stream_);
    if (error == cudaSuccess) error = Run(choice, 0);
    if (error == cudaSuccess) {
      error =
          CountDiffering(outputs_.data(), reference_.data(), size_t{choice.rows} * shape_.spec_.n,
                         output_bytes(), differing, stream_);
    }
    if (error == cudaSuccess) {
      error = cudaMemcpyAsync(&count, differing, sizeof(count), cudaMemcpyDeviceToHost, stream_);
    }
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream_);
    if (error != cudaSuccess) return CudaStatus(error, "a matrix product's trial");
    return count == 0;
  }

  // Milliseconds of one run, and of what follows it where the trial names that.
  absl::StatusOr<float> Time(const Choice& choice) {
    const auto run_once = [&](size_t run) {
      const cudaError_t error = Run(choice, run);
      if (error != cudaSuccess || !trial_.follow_up) return error;
      return trial_.follow_up(choice.rows, stream_);
    };
    return choice.rows <= kMostReplayedRows ? TimeReplays(run_once) : TimeRuns(run_once);
  }
  // The same for the kernel for few rows. Infinite: it computes fewer.
  absl::StatusOr<float> TimeSkinny(uint32_t rows) {
    std::vector<SkinnyGemm> gemms(trial_.weights.size());
    for (size_t i = 0; i < gemms.size(); ++i) {
      const cudaError_t error =
          MakeSkinnyGemm(trial_.weights[i], trial_.inputs, PaddedRows(shape_.spec_.max_rows),
                         shape_.spec_.n, shape_.spec_.k, {}, &gemms[i]);
      if (error != cudaSuccess) return CudaStatus(error, "a matrix product's trial");
    }
    if (gemms[0].max_rows < rows) return std::numeric_limits<float>::infinity();
    return TimeReplays([&](size_t run) {
      return RunSkinnyGemm(gemms[run % gemms.size()], rows, trial_.bias, outputs_.data(),
                           shape_.spec_.fp32_output, stream_);
    });
  }

 private:
  Contest(const LinearShape& shape, const Trial& trial, cudaStream_t stream)
      : shape_(shape), trial_(trial), stream_(stream) {}

  uint32_t output_bytes() const { return shape_.spec_.fp32_output ? 4 : 2; }
  size_t row_bytes() const { return size_t{shape_.spec_.n} * output_bytes(); }

  cudaError_t ComputeReference() {
    const Spec& spec = shape_.spec_;
    const uint32_t rows = PaddedRows(spec.max_rows);
    cudaError_t error =
        FillActivationsBf16(trial_.inputs, size_t{rows} * spec.k, spec.n + spec.k, stream_);
    if (error != cudaSuccess) return error;
    return RunInParts(spec, trial_.weights.front(), trial_.bias, trial_.inputs, rows,
                      reference_.data(), stream_);
  }

  // Milliseconds of one run among kTimedRuns.
  absl::StatusOr<float> TimeRuns(absl::FunctionRef<cudaError_t(size_t run)> run_once) {
    float milliseconds = 0;
    cudaError_t error = run_once(0);  // loads the kernel
    if (error == cudaSuccess) error = cudaEventRecord(begin_.get(), stream_);
    for (size_t run = 0; run < kTimedRuns && error == cudaSuccess; ++run) error = run_once(run);
    if (error == cudaSuccess) error = cudaEventRecord(end_.get(), stream_);
    if (error == cudaSuccess) error = cudaEventSynchronize(end_.get());
    if (error == cudaSuccess) {
      error = cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get());
    }
    if (error != cudaSuccess) return CudaStatus(error, "a matrix product's timing");
    return milliseconds / kTimedRuns;
  }

  // Milliseconds of one run among those of a graph: the least of several replays.
  absl::StatusOr<float> TimeReplays(absl::FunctionRef<cudaError_t(size_t run)> run_once) {
    cudaError_t error = run_once(0);  // loads the kernel
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream_);
    if (error != cudaSuccess) return CudaStatus(error, "a matrix product's timing");
    const absl::StatusOr<Graph> graph =
        Graph::Capture(stream_, "a matrix product's timing", [&]() -> cudaError_t {
          cudaError_t captured = cudaSuccess;
          for (size_t run = 0; run < kReplayedRuns && captured == cudaSuccess; ++run) {
            captured = run_once(run);
          }
          return captured;
        });
    if (!graph.ok()) return graph.status();
    float least = std::numeric_limits<float>::infinity();
    error = graph->Launch(stream_);
    for (int replay = 0; replay < kReplays && error == cudaSuccess; ++replay) {
      float milliseconds = 0;
      error = cudaEventRecord(begin_.get(), stream_);
      if (error == cudaSuccess) error = graph->Launch(stream_);
      if (error == cudaSuccess) error = cudaEventRecord(end_.get(), stream_);
      if (error == cudaSuccess) error = cudaEventSynchronize(end_.get());
      if (error == cudaSuccess) {
        error = cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get());
      }
      least = std::min(least, milliseconds / kReplayedRuns);
    }
    if (error != cudaSuccess) return CudaStatus(error, "a matrix product's timing");
    return least;
  }

  cudaError_t Run(const Choice& choice, size_t run) const {
    return shape_.RunChoice(choice, trial_.weights[run % trial_.weights.size()], trial_.bias,
                            trial_.inputs, outputs_.data(), stream_);
  }

  const LinearShape& shape_;
  const Trial& trial_;
  cudaStream_t stream_;
  DeviceBuffer reference_;
  DeviceBuffer outputs_;
  DeviceBuffer differing_;
  Event begin_;
  Event end_;
};

LinearShape::LinearShape(MatrixLibrary& library, const Spec& spec)
    : library_(library), spec_(spec) {}

LinearShape::~LinearShape() {
  if (weights_layout_ != nullptr) cublasLtMatrixLayoutDestroy(weights_layout_);
  if (operation_ != nullptr) cublasLtMatmulDescDestroy(operation_);
}

uint32_t LinearShape::PaddedRows(uint32_t rows) {
  if (rows <= kSkinnyMaxRows) return kSkinnyMaxRows;
  const uint32_t step = rows <= 64 ? 16 : rows <= 256 ? 32 : 128;
  return (rows + step - 1) / step * step;
}

absl::StatusOr<std::shared_ptr<const LinearShape>> LinearShape::Create(MatrixLibrary& library,
                                                                       const Spec& spec,
                                                                       const Trial& trial,
                                                                       cudaStream_t stream) {
  if (spec.k % 16 != 0) {
    return absl::UnimplementedError(
        absl::StrCat("a matrix product of depth ", spec.k, ": a multiple of 16 is needed"));
  }
  std::shared_ptr<LinearShape> shape(new LinearShape(library, spec));
  if (spec.dtype != DType::kBF16) return shape;
  absl::Status status =
      library.exact() ? shape->Choose(trial, stream) : shape->ChooseFreely(trial, stream);
  if (!status.ok()) return status;
  return shape;
}

absl::Status LinearShape::DescribeProduct() {
  // cuBLASLt sees our row-major matrices transposed: W is [k, n] to be transposed, x is [k, rows],
  // y is [n, rows].
  absl::Status status =
      LibraryStatus(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                    "cublasLtMatmulDescCreate");
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
    if (!status.ok()) return;
    status =
        LibraryStatus(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof(value)),
                      "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (spec_.has_bias) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16BF);
  }
  if (!status.ok()) return status;
  absl::StatusOr<Layout> weights = MakeLayout(CUDA_R_16BF, spec_.k, spec_.n);
  if (!weights.ok()) return weights.status();
  weights_layout_ = weights->release();
  return absl::OkStatus();
}

absl::StatusOr<LinearShape::Choice> LinearShape::MakeChoice(uint32_t rows) const {
  Choice choice;
  choice.rows = rows;
  absl::StatusOr<Layout> inputs = MakeLayout(CUDA_R_16BF, spec_.k, rows);
  if (!inputs.ok()) return inputs.status();
  absl::StatusOr<Layout> outputs =
      MakeLayout(spec_.fp32_output ? CUDA_R_32F : CUDA_R_16BF, spec_.n, rows);
  if (!outputs.ok()) return outputs.status();
  choice.inputs = *std::move(inputs);
  choice.outputs = *std::move(outputs);
  return choice;
}

absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> LinearShape::Propose(
    const Choice& choice, cublasLtMatmulPreference_t preference, size_t most) const {
  std::vector<cublasLtMatmulHeuristicResult_t> found(most);
  int num_found = 0;
  const cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(
      library_.handle(), operation_, weights_layout_, choice.inputs.get(), choice.outputs.get(),
      choice.outputs.get(), preference, static_cast<int>(most), found.data(), &num_found);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  if (answer == CUBLAS_STATUS_NOT_SUPPORTED) return algorithms;
  absl::Status status = LibraryStatus(answer, "cublasLtMatmulAlgoGetHeuristic");
  if (!status.ok()) return status;
  found.resize(static_cast<size_t>(num_found));
  for (const cublasLtMatmulHeuristicResult_t& result : found) {
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  return algorithms;
}

// More rows can take less time, where only their number has an algorithm that fills the device.
void LinearShape::Add(Choice choice) {
  while (!choices_.empty() && choice.milliseconds < choices_.back().milliseconds) {
    choices_.pop_back();
  }
  choices_.push_back(std::move(choice));
}

absl::Status LinearShape::Choose(const Trial& trial, cudaStream_t stream) {
  if (absl::Status status = DescribeProduct(); !status.ok()) return status;
  absl::StatusOr<Preference> preference = MakePreference(library_.workspace_bytes(), true);
  if (!preference.ok()) return preference.status();
  absl::StatusOr<Contest> contest = Contest::Create(*this, trial, stream);
  if (!contest.ok()) return contest.status();

  const uint32_t most = PaddedRows(spec_.max_rows);
  for (uint32_t rows = PaddedRows(kSkinnyMaxRows + 1); rows <= most; rows = PaddedRows(rows + 1)) {
    absl::StatusOr<Choice> choice = MakeChoice(rows);
    if (!choice.ok()) return choice.status();
    const auto proposed = Propose(*choice, preference->get(), kAskedAlgorithms);
    if (!proposed.ok()) return proposed.status();

    cublasLtMatmulAlgo_t best = {};
    int num_exact = 0;
    for (const cublasLtMatmulAlgo_t& algorithm : *proposed) {
      if (num_exact == kTimedAlgorithms) break;
      ++num_tried_;
      choice->algorithm = algorithm;
      const absl::StatusOr<bool> is_exact = contest->IsExact(*choice);
      if (!is_exact.ok()) {
        // The library may refuse what it proposed; a device that is lost answers nothing any more.
        cudaGetLastError();
        if (cudaStreamSynchronize(stream) != cudaSuccess) return is_exact.status();
        continue;
      }
      if (!*is_exact) continue;
      ++num_exact;
      const absl::StatusOr<float> time = contest->Time(*choice);
      if (!time.ok()) return time.status();
      if (*time < choice->milliseconds) {
        choice->milliseconds = *time;
        best = algorithm;
      }
    }
    num_exact_ += num_exact;
    // Then the next larger number of rows serves. Where there is none (seen for a fp32 output of
    // odd width) the rows are computed 16 at a time.
    if (num_exact == 0) continue;
    choice->algorithm = best;
    Add(*std::move(choice));
  }
  if (choices_.empty()) {
    skinny_max_rows_ = kSkinnyMostRows;
    return absl::OkStatus();
  }
  const absl::StatusOr<float> skinny = contest->TimeSkinny(kSkinnyMostRows);
  if (!skinny.ok()) return skinny.status();
  if (*skinny < kFollowUp * choices_.front().milliseconds) skinny_max_rows_ = kSkinnyMostRows;
  return absl::OkStatus();
}

// --- Not exact: for benchmarks ---------------------------------------------------------------

namespace {

// Numbers of rows that are tried, ascending: the few that graphs have, too.
uint32_t NextFreeRows(uint32_t rows) {
  return rows < kSkinnyMaxRows ? 2 * rows : LinearShape::PaddedRows(rows + 1);
}

}  // namespace

// Whatever the library proposes competes by time alone.
absl::Status LinearShape::ChooseFreely(const Trial& trial, cudaStream_t stream) {
  if (absl::Status status = DescribeProduct(); !status.ok()) return status;
  absl::StatusOr<Preference> preference = MakePreference(library_.workspace_bytes(), false);
  if (!preference.ok()) return preference.status();
  absl::StatusOr<Contest> contest = Contest::Create(*this, trial, stream);
  if (!contest.ok()) return contest.status();

  const uint32_t most = PaddedRows(spec_.max_rows);
  for (uint32_t rows = 1; rows <= most; rows = NextFreeRows(rows)) {
    absl::StatusOr<Choice> choice = MakeChoice(rows);
    if (!choice.ok()) return choice.status();
    const auto proposed =
        Propose(*choice, preference->get(),
                rows <= kMostReplayedRows ? kAskedFreeAlgorithms : kAskedAlgorithms);
    if (!proposed.ok()) return proposed.status();
    cublasLtMatmulAlgo_t best = {};
    bool is_served = false;
    for (const cublasLtMatmulAlgo_t& algorithm : *proposed) {
      choice->algorithm = algorithm;
      const absl::StatusOr<float> time = contest->Time(*choice);
      if (!time.ok()) {  // it refuses the product or the capture
        cudaGetLastError();
        continue;
      }
      if (*time < choice->milliseconds) {
        choice->milliseconds = *time;
        best = algorithm;
        is_served = true;
      }
    }
    if (!is_served) continue;  // then the next larger number of rows serves
    choice->algorithm = best;
    const absl::StatusOr<bool> is_exact = contest->IsExact(*choice);
    if (!is_exact.ok()) return is_exact.status();
    ++num_tried_;
    num_exact_ += *is_exact ? 1 : 0;
    Add(*std::move(choice));
  }
  return GiveRowsToFaster(*contest);
}

// Sets which few rows the library computes.
absl::Status LinearShape::GiveRowsToFaster(Contest& contest) {
  skinny_max_rows_ = kSkinnyMostRows;
  uint32_t before = 0;
  for (uint32_t rows = 1; rows <= kSkinnyMostRows; rows = NextFreeRows(rows)) {
    const Choice* const choice = FindChoice(rows);
    const absl::StatusOr<float> skinny = contest.TimeSkinny(rows);
    if (!skinny.ok()) return skinny.status();
    const bool is_for_library = choice != nullptr && choice->milliseconds < *skinny;
    for (uint32_t r = before + 1; r <= rows; ++r) {
      library_rows_ |= uint64_t{is_for_library} << r;
    }
    before = rows;
  }
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------------------------

cudaError_t LinearShape::RunInParts(const Spec& spec, const void* weights, const void* bias,
                                    const void* inputs, uint32_t rows, void* outputs,
                                    cudaStream_t stream) {
  const size_t output_bytes = spec.fp32_output ? sizeof(float) : sizeof(uint16_t);
  cudaError_t error = cudaSuccess;
  for (uint32_t row = 0; row < rows && error == cudaSuccess; row += kSkinnyMaxRows) {
    SkinnyGemm part;
    error = MakeSkinnyGemm(weights, static_cast<const uint16_t*>(inputs) + size_t{row} * spec.k,
                           kSkinnyMaxRows, spec.n, spec.k, {}, &part);
    if (error != cudaSuccess) break;
    error = RunSkinnyGemm(part, std::min(rows - row, kSkinnyMaxRows), bias,
                          static_cast<uint8_t*>(outputs) + row * (spec.n * output_bytes),
                          spec.fp32_output, stream);
  }
  return error;
}

const LinearShape::Choice* LinearShape::FindChoice(uint32_t rows) const {
  const auto choice =
      std::lower_bound(choices_.begin(), choices_.end(), rows,
                       [](const Choice& at, uint32_t wanted) { return at.rows < wanted; });
  return choice == choices_.end() ? nullptr : &*choice;
}

cudaError_t LinearShape::RunMany(const void* weights, const void* bias, const void* inputs,
                                 uint32_t rows, void* outputs, cudaStream_t stream) const {
  const Choice* const choice = FindChoice(rows);
  if (choice == nullptr) {
    return RunInParts(spec_, weights, bias, inputs, rows, outputs, stream);
  }
  return RunChoice(*choice, weights, bias, inputs, outputs, stream);
}

cudaError_t LinearShape::RunChoice(const Choice& choice, const void* weights, const void* bias,
                                   const void* inputs, void* outputs, cudaStream_t stream) const {
  if (spec_.has_bias &&
      cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                     sizeof(bias)) != CUBLAS_STATUS_SUCCESS) {
    return cudaErrorUnknown;
  }
  const float one = 1.0f;
  const float zero = 0.0f;
  const cublasStatus_t status = cublasLtMatmul(
      library_.handle(), operation_, &one, weights, weights_layout_, inputs, choice.inputs.get(),
      &zero, outputs, choice.outputs.get(), outputs, choice.outputs.get(), &choice.algorithm,
      library_.workspace(), library_.workspace_bytes(), stream);
  if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
  const cudaError_t error = cudaGetLastError();
  return error != cudaSuccess ? error : cudaErrorUnknown;
}

absl::StatusOr<Linear> Linear::Create(std::shared_ptr<const LinearShape> shape, const void* weights,
                                      const void* bias, const void* inputs,
                                      const SkinnyPairing& pairing) {
  Linear linear;
  if (shape->spec().dtype == DType::kBF16) {
    const cudaError_t error =
        MakeSkinnyGemm(weights, inputs, LinearShape::PaddedRows(shape->spec().max_rows),
                       shape->spec().n, shape->spec().k, pairing, &linear.skinny_);
    if (error != cudaSuccess) {
      return CudaStatus(error,
                        absl::StrCat("a matrix of ", shape->spec().n, " x ", shape->spec().k));
    }
  }
  linear.skinny_.max_rows = std::min(linear.skinny_.max_rows, shape->skinny_max_rows());
  linear.shape_ = std::move(shape);
  linear.weights_ = weights;
  linear.bias_ = bias;
  linear.inputs_ = inputs;
  return linear;
}

cudaError_t Linear::Run(uint32_t rows, void* outputs, cudaStream_t stream) const {
  const LinearShape::Spec& spec = shape_->spec();
  if (spec.dtype == DType::kF32) {
    return Fp32Gemm(static_cast<const float*>(inputs_), static_cast<const float*>(weights_),
                    static_cast<const float*>(bias_), static_cast<float*>(outputs), rows, spec.n,
                    spec.k, stream);
  }
  if (IsSkinny(rows)) {
    return RunSkinnyGemm(skinny_, rows, bias_, outputs, spec.fp32_output, stream);
  }
  return shape_->RunMany(weights_, bias_, inputs_, rows, outputs, stream);
}

cudaError_t Linear::RunAdd(uint32_t rows, void* outputs, cudaStream_t stream) const {
  return RunSkinnyGemmAdd(skinny_, rows, bias_, outputs, stream);
}

cudaError_t Linear::RunSiluMul(uint32_t rows, void* outputs, cudaStream_t stream) const {
  return RunSkinnyGemmSiluMul(skinny_, rows, bias_, outputs, stream);
}

cudaError_t Linear::RunRotateStore(const RotateStoreArgs& args, cudaStream_t stream) const {
  return RunSkinnyGemmRotateStore(skinny_, bias_, args, stream);
}

}  // namespace quire::cuda
