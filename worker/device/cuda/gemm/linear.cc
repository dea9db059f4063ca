#include "worker/device/cuda/gemm/linear.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/device/cuda/gemm/fp32_gemm.h"
#include "worker/device/cuda/gemm/trial.h"

namespace quire::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kMaxAlgorithms = 8;    // asked for, a number of rows
constexpr int kTimedAlgorithms = 4;  // of the exact ones
constexpr int kTimedRuns = 4;

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

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixLibrary>> MatrixLibrary::Create() {
  std::unique_ptr<MatrixLibrary> library(new MatrixLibrary);
  absl::Status status = LibraryStatus(cublasLtCreate(&library->handle_), "cublasLtCreate");
  if (!status.ok()) return status;
  absl::StatusOr<DeviceBuffer> workspace =
      DeviceBuffer::Create(kWorkspaceBytes, "cuBLASLt's workspace");
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
  if (absl::Status status = shape->Choose(trial, stream); !status.ok()) return status;
  return shape;
}

absl::Status LinearShape::Choose(const Trial& trial, cudaStream_t stream) {
  // cuBLASLt sees our row-major matrices transposed: W is [k, n] to be transposed, x is [k, rows],
  // y is [n, rows].
  const cudaDataType_t output_type = spec_.fp32_output ? CUDA_R_32F : CUDA_R_16BF;
  const uint32_t output_bytes = spec_.fp32_output ? 4 : 2;
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
  absl::StatusOr<Layout> weights_layout = MakeLayout(CUDA_R_16BF, spec_.k, spec_.n);
  if (!weights_layout.ok()) return weights_layout.status();
  weights_layout_ = weights_layout->release();

  cublasLtMatmulPreference_t raw_preference = nullptr;
  status = LibraryStatus(cublasLtMatmulPreferenceCreate(&raw_preference),
                         "cublasLtMatmulPreferenceCreate");
  if (!status.ok()) return status;
  const Preference preference(raw_preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    if (!status.ok()) return;
    status = LibraryStatus(
        cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{library_.workspace_bytes()});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  if (!status.ok()) return status;

  // The reference's results for random inputs, 16 rows at a time.
  const uint32_t all_rows = PaddedRows(spec_.max_rows);
  absl::StatusOr<DeviceBuffer> reference =
      DeviceBuffer::Create(size_t{all_rows} * spec_.n * output_bytes, "a product's reference");
  if (!reference.ok()) return reference.status();
  absl::StatusOr<DeviceBuffer> outputs =
      DeviceBuffer::Create(size_t{all_rows} * spec_.n * output_bytes, "a product's trial");
  if (!outputs.ok()) return outputs.status();
  absl::StatusOr<DeviceBuffer> differing =
      DeviceBuffer::Create(sizeof(unsigned long long), "a count");
  if (!differing.ok()) return differing.status();
  auto* const count_on_device = static_cast<unsigned long long*>(differing->data());
  const void* const weights = trial.weights.front();
  cudaError_t error =
      FillNormalBf16(trial.inputs, size_t{all_rows} * spec_.k, spec_.n + spec_.k, 1.0f, stream);
  for (uint32_t row = 0; row < all_rows && error == cudaSuccess; row += kSkinnyMaxRows) {
    SkinnyGemm gemm;
    error =
        MakeSkinnyGemm(weights, static_cast<const uint16_t*>(trial.inputs) + size_t{row} * spec_.k,
                       spec_.n, spec_.k, &gemm);
    if (error != cudaSuccess) break;
    error = RunSkinnyGemm(
        gemm, kSkinnyMaxRows, trial.bias,
        static_cast<uint8_t*>(reference->data()) + size_t{row} * spec_.n * output_bytes,
        spec_.fp32_output, stream);
  }
  if (error != cudaSuccess) return CudaStatus(error, "a matrix product's reference");

  absl::StatusOr<Event> begin = Event::CreateTimed();
  if (!begin.ok()) return begin.status();
  absl::StatusOr<Event> end = Event::CreateTimed();
  if (!end.ok()) return end.status();
  for (uint32_t rows = PaddedRows(kSkinnyMaxRows + 1); rows <= all_rows;
       rows = PaddedRows(rows + 1)) {
    Choice choice;
    choice.rows = rows;
    absl::StatusOr<Layout> inputs_layout = MakeLayout(CUDA_R_16BF, spec_.k, rows);
    if (!inputs_layout.ok()) return inputs_layout.status();
    absl::StatusOr<Layout> outputs_layout = MakeLayout(output_type, spec_.n, rows);
    if (!outputs_layout.ok()) return outputs_layout.status();
    choice.inputs = *std::move(inputs_layout);
    choice.outputs = *std::move(outputs_layout);

    std::array<cublasLtMatmulHeuristicResult_t, kMaxAlgorithms> found;
    int num_found = 0;
    status = LibraryStatus(
        cublasLtMatmulAlgoGetHeuristic(library_.handle(), operation_, weights_layout_,
                                       choice.inputs.get(), choice.outputs.get(),
                                       choice.outputs.get(), preference.get(), kMaxAlgorithms,
                                       found.data(), &num_found),
        absl::StrCat("cublasLtMatmulAlgoGetHeuristic for ", rows, " x ", spec_.n, " x ", spec_.k));
    if (!status.ok()) return status;
    choices_.push_back(std::move(choice));

    float least = std::numeric_limits<float>::infinity();
    int num_timed = 0;
    cublasLtMatmulAlgo_t best = {};
    for (int i = 0; i < num_found && num_timed < kTimedAlgorithms; ++i) {
      if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
      choices_.back().algorithm = found[i].algo;
      ++num_tried_;
      const size_t elements = size_t{rows} * spec_.n;
      unsigned long long count = 0;
      error = cudaMemsetAsync(outputs->data(), 0xFF, elements * output_bytes, stream);
      if (error == cudaSuccess) {
        error = RunLibrary(weights, trial.bias, trial.inputs, rows, outputs->data(), stream);
      }
      if (error == cudaSuccess) {
        error = CountDiffering(outputs->data(), reference->data(), elements, output_bytes,
                               count_on_device, stream);
      }
      if (error == cudaSuccess) {
        error =
            cudaMemcpyAsync(&count, count_on_device, sizeof(count), cudaMemcpyDeviceToHost, stream);
      }
      if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
      if (error != cudaSuccess) return CudaStatus(error, "a matrix product's trial");
      if (count != 0) continue;
      ++num_exact_;
      ++num_timed;
      error = cudaEventRecord(begin->get(), stream);
      for (int run = 0; run < kTimedRuns && error == cudaSuccess; ++run) {
        error = RunLibrary(trial.weights[run % trial.weights.size()], trial.bias, trial.inputs,
                           rows, outputs->data(), stream);
      }
      if (error == cudaSuccess) error = cudaEventRecord(end->get(), stream);
      if (error == cudaSuccess) error = cudaEventSynchronize(end->get());
      float milliseconds = 0;
      if (error == cudaSuccess)
        error = cudaEventElapsedTime(&milliseconds, begin->get(), end->get());
      if (error != cudaSuccess) return CudaStatus(error, "a matrix product's timing");
      if (milliseconds < least) {
        least = milliseconds;
        best = found[i].algo;
      }
    }
    if (num_timed == 0) {
      return absl::InternalError(absl::StrCat("none of cuBLASLt's ", num_found, " algorithms for ",
                                              rows, " x ", spec_.n, " x ", spec_.k,
                                              " gives the reference's bits"));
    }
    choices_.back().algorithm = best;
  }
  return absl::OkStatus();
}

cudaError_t LinearShape::RunLibrary(const void* weights, const void* bias, const void* inputs,
                                    uint32_t rows, void* outputs, cudaStream_t stream) const {
  const auto choice =
      std::lower_bound(choices_.begin(), choices_.end(), rows,
                       [](const Choice& at, uint32_t wanted) { return at.rows < wanted; });
  if (choice == choices_.end()) return cudaErrorInvalidValue;
  if (spec_.has_bias &&
      cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                     sizeof(bias)) != CUBLAS_STATUS_SUCCESS) {
    return cudaErrorUnknown;
  }
  const float one = 1.0f;
  const float zero = 0.0f;
  const cublasStatus_t status = cublasLtMatmul(
      library_.handle(), operation_, &one, weights, weights_layout_, inputs, choice->inputs.get(),
      &zero, outputs, choice->outputs.get(), outputs, choice->outputs.get(), &choice->algorithm,
      library_.workspace(), library_.workspace_bytes(), stream);
  if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
  const cudaError_t error = cudaGetLastError();
  return error != cudaSuccess ? error : cudaErrorUnknown;
}

absl::StatusOr<Linear> Linear::Create(std::shared_ptr<const LinearShape> shape, const void* weights,
                                      const void* bias, const void* inputs) {
  Linear linear;
  if (shape->spec().dtype == DType::kBF16) {
    const cudaError_t error =
        MakeSkinnyGemm(weights, inputs, shape->spec().n, shape->spec().k, &linear.skinny_);
    if (error != cudaSuccess) {
      return CudaStatus(error,
                        absl::StrCat("a matrix of ", shape->spec().n, " x ", shape->spec().k));
    }
  }
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
  if (rows <= kSkinnyMaxRows) {
    return RunSkinnyGemm(skinny_, rows, bias_, outputs, spec.fp32_output, stream);
  }
  return shape_->RunLibrary(weights_, bias_, inputs_, rows, outputs, stream);
}

}  // namespace quire::cuda
