# CUDA as a language: nvcc from PyPI's wheels, for Hopper.
set(CMAKE_CUDA_COMPILER "${QUIRE_CUDA_DIR}/bin/nvcc")
set(CMAKE_CUDA_ARCHITECTURES 90a-real)
# quire_cudart stands for the runtime; the wheels' folders are not those in which CMake looks for it.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)

# nvcc looks for its libraries in lib64, the wheels put them into lib: CMake's test program needs telling.
set(ENV{NVCC_APPEND_FLAGS} "-L${QUIRE_CUDA_DIR}/lib")
enable_language(CUDA)
unset(ENV{NVCC_APPEND_FLAGS})

# CMake 3.25 does not know that nvcc has C++20.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

if(QUIRE_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${QUIRE_CCACHE})
endif()

# -fmad=false is to the device what -ffp-contract=off is to the host: kernels that share a recipe share
# its roundings.
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
list(JOIN QUIRE_COMPILE_OPTIONS "," host_options)
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-Xcompiler=${host_options}>")
