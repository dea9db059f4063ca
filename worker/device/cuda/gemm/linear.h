#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_LINEAR_H_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_LINEAR_H_

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/device/cuda/gemm/skinny_gemm.h"
#include "worker/model/dtype.h"

// The matrix products of the CUDA executor: whatever the number of rows, a row's result is bitwise
// the same.
//
// In bf16 the reference is skinny_gemm.h's chain. It computes up to 16 rows itself, and up to 32
// where it is the faster; for more, cuBLASLt does, with algorithms that do not split K and that
// gave, at start, bitwise the reference's results for random inputs of that shape and number of
// rows. Of those the fastest is taken. In fp32 one kernel of our own serves every number of rows.
//
// For benchmarks alone there is a library that is not exact: any algorithm competes, split-K
// included, for every number of rows, and a row's bits depend on how many others there are.
namespace quire::cuda {

// A library handle and its workspace, shared by all products of one stream.
class MatrixLibrary {
 public:
  // exact = false: see above; for benchmarks.
  static absl::StatusOr<std::unique_ptr<MatrixLibrary>> Create(bool exact = true);
  ~MatrixLibrary();
  MatrixLibrary(const MatrixLibrary&) = delete;
  MatrixLibrary& operator=(const MatrixLibrary&) = delete;

  bool exact() const { return exact_; }
  cublasLtHandle_t handle() const { return handle_; }
  void* workspace() const { return workspace_.data(); }
  size_t workspace_bytes() const { return workspace_.size(); }

 private:
  explicit MatrixLibrary(bool exact) : exact_(exact) {}

  const bool exact_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
};

// y = x · Wᵀ (+ bias) by shape alone: which algorithm computes how many rows.
class LinearShape {
 public:
  struct Spec {
    DType dtype = DType::kBF16;
    uint32_t n = 0;
    uint32_t k = 0;  // a multiple of 16
    bool has_bias = false;
    bool fp32_output = false;  // in bf16; in fp32 the output is fp32
    uint32_t max_rows = 0;
  };
  // What the choice is made with, all on the device. Several matrices of the shape keep the timing
  // from living in the cache.
  struct Trial {
    std::vector<const void*> weights;
    const void* bias = nullptr;
    void* inputs = nullptr;  // [PaddedRows(max_rows), k], overwritten
    // Where the library is not exact: enqueues what follows the library's product of so many rows,
    // and what the kernel for few of them does along with its own. Empty: nothing does.
    std::function<cudaError_t(uint32_t rows, cudaStream_t stream)> follow_up;
  };

  // Tries the algorithms for every number of rows up to max_rows. RESOURCE_EXHAUSTED: memory for
  // the trial.
  static absl::StatusOr<std::shared_ptr<const LinearShape>> Create(MatrixLibrary& library,
                                                                   const Spec& spec,
                                                                   const Trial& trial,
                                                                   cudaStream_t stream);
  ~LinearShape();
  LinearShape(const LinearShape&) = delete;
  LinearShape& operator=(const LinearShape&) = delete;

  // Numbers of rows that are tried: `rows`, rounded up. A product may compute more rows than asked
  // for, up to PaddedRows(max_rows): inputs and outputs must have room for those.
  static uint32_t PaddedRows(uint32_t rows);

  const Spec& spec() const { return spec_; }
  // Rows up to which the kernel for few of them is the faster.
  uint32_t skinny_max_rows() const { return skinny_max_rows_; }
  // Whether the library computes so many rows all the same: never where it is exact.
  bool IsForLibrary(uint32_t rows) const {
    return rows <= kSkinnyMostRows && ((library_rows_ >> rows) & 1) != 0;
  }
  // Algorithms that were tried, and how many of them gave the reference's bits. Where the library
  // is not exact: the fastest for each number of rows, and how many of them would have done.
  uint32_t num_tried() const { return num_tried_; }
  uint32_t num_exact() const { return num_exact_; }

  // More rows than skinny_max_rows(), up to max_rows, or what IsForLibrary().
  cudaError_t RunMany(const void* weights, const void* bias, const void* inputs, uint32_t rows,
                      void* outputs, cudaStream_t stream) const;

 private:
  struct Choice;
  class Contest;
  LinearShape(MatrixLibrary& library, const Spec& spec);
  absl::Status Choose(const Trial& trial, cudaStream_t stream);
  absl::Status ChooseFreely(const Trial& trial, cudaStream_t stream);
  absl::Status GiveRowsToFaster(Contest& contest);
  absl::Status DescribeProduct();
  absl::StatusOr<Choice> MakeChoice(uint32_t rows) const;
  // Up to `most` algorithms, what the library takes for the fastest first.
  absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Propose(const Choice& choice,
                                                            cublasLtMatmulPreference_t preference,
                                                            size_t most) const;
  void Add(Choice choice);
  // What computes so many rows, or null.
  const Choice* FindChoice(uint32_t rows) const;
  cudaError_t RunChoice(const Choice& choice, const void* weights, const void* bias,
                        const void* inputs, void* outputs, cudaStream_t stream) const;
  // The reference itself, kSkinnyMaxRows rows at a time.
  static cudaError_t RunInParts(const Spec& spec, const void* weights, const void* bias,
                                const void* inputs, uint32_t rows, void* outputs,
                                cudaStream_t stream);

  MatrixLibrary& library_;
  const Spec spec_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t weights_layout_ = nullptr;
  std::vector<Choice> choices_;  // ascending rows; beyond the last the library has nothing exact
  uint32_t skinny_max_rows_ = kSkinnyMaxRows;
  uint64_t library_rows_ = 0;  // bit r: IsForLibrary(r)
  uint32_t num_tried_ = 0;
  uint32_t num_exact_ = 0;
};

// One layer's product: weights and where its inputs lie.
class Linear {
 public:
  Linear() = default;
  // `weights` [n, k], `bias` [n] or null, `inputs` [PaddedRows(max_rows), k], at least 16 rows: on
  // the device, in the shape's dtype, and outliving this.
  // With a pairing the skinny products end with what Run does not do: see below.
  static absl::StatusOr<Linear> Create(std::shared_ptr<const LinearShape> shape,
                                       const void* weights, const void* bias, const void* inputs,
                                       const SkinnyPairing& pairing);

  // Whether so many rows are computed by the kernel for few of them, which can do what follows the
  // product along with it.
  bool IsSkinny(uint32_t rows) const {
    return shape_->spec().dtype == DType::kBF16 && rows <= skinny_.max_rows &&
           !shape_->IsForLibrary(rows);
  }
  bool is_paired() const { return skinny_.pairing.half > 0; }

  // Enqueues outputs[0, rows) = inputs[0, rows) · Wᵀ + bias; outputs has room for
  // PaddedRows(max_rows), of which those beyond `rows` mean nothing. REQUIRES: 0 < rows <=
  // max_rows.
  cudaError_t Run(uint32_t rows, void* outputs, cudaStream_t stream) const;
  // The same and what follows, in one kernel and with the same bits as in two: skinny_gemm.h.
  // REQUIRES: IsSkinny(rows), and the pairing of its namesake there.
  cudaError_t RunAdd(uint32_t rows, void* outputs, cudaStream_t stream) const;
  cudaError_t RunSiluMul(uint32_t rows, void* outputs, cudaStream_t stream) const;
  cudaError_t RunRotateStore(const RotateStoreArgs& args, cudaStream_t stream) const;

 private:
  std::shared_ptr<const LinearShape> shape_;
  const void* weights_ = nullptr;
  const void* bias_ = nullptr;
  const void* inputs_ = nullptr;
  SkinnyGemm skinny_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_LINEAR_H_
