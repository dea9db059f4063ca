# Third-party libraries as imported targets. docs/adr/0001-toolchain.md says why each is linked as it is.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(prometheus-cpp REQUIRED)

# libcrypto as an archive, as gRPC links it, so that a process holds it once.
find_library(QUIRE_LIBCRYPTO NAMES libcrypto.a REQUIRED)
add_library(quire_crypto INTERFACE)
target_link_libraries(quire_crypto INTERFACE ${QUIRE_LIBCRYPTO} ${CMAKE_DL_LIBS} Threads::Threads)

# Debian's gRPC CMake targets are shared only. Linking the archives keeps libtorch's own, older
# protobuf symbols away from ours.
function(quire_static_archives out)
  execute_process(COMMAND ${PKG_CONFIG_EXECUTABLE} --static --libs ${ARGN}
                  OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags)
  list(REMOVE_DUPLICATES flags)
  set(archives "")
  set(system "")
  foreach(flag IN LISTS flags)
    if(flag MATCHES "^-l(dl|rt|m|pthread|atomic|systemd|cap)$" OR flag STREQUAL "-pthread")
      list(APPEND system ${flag})
    elseif(flag MATCHES "^-l(.+)$")
      find_library(QUIRE_ARCHIVE_${CMAKE_MATCH_1} NAMES lib${CMAKE_MATCH_1}.a)
      if(QUIRE_ARCHIVE_${CMAKE_MATCH_1})
        list(APPEND archives ${QUIRE_ARCHIVE_${CMAKE_MATCH_1}})
      else()
        list(APPEND system ${flag})
      endif()
    endif()
  endforeach()
  list(REMOVE_DUPLICATES archives)
  set(${out} -Wl,--start-group ${archives} -Wl,--end-group ${system} PARENT_SCOPE)
endfunction()

# Abseil's archives too: its CMake package names the shared libraries, and a program must not hold two
# copies. Its targets' names stay, each standing for all of Abseil.
file(GLOB absl_archives "/usr/lib/*/libabsl_*.a")
if(NOT absl_archives)
  message(FATAL_ERROR "no Abseil archives: install libabsl-dev, or run ./dev build, which does")
endif()
add_library(quire_absl INTERFACE)
target_link_libraries(quire_absl INTERFACE
  -Wl,--start-group ${absl_archives} -Wl,--end-group Threads::Threads)
foreach(name IN ITEMS btree cord flat_hash_map flat_hash_set hash inlined_vector node_hash_map span status
                      statusor str_format strings synchronization time)
  add_library(absl::${name} ALIAS quire_absl)
endforeach()

quire_static_archives(grpc_archives grpc++ protobuf)
add_library(quire_grpc INTERFACE)
target_link_libraries(quire_grpc INTERFACE ${grpc_archives} Threads::Threads)
if(NOT QUIRE_FUZZ)  # clang's sanitizers are archives themselves, whose malloc the shared libraries must find
  target_link_options(quire_grpc INTERFACE -Wl,--exclude-libs,ALL)
endif()

find_library(QUIRE_GRPC_REFLECTION NAMES libgrpc++_reflection.a REQUIRED)
add_library(quire_grpc_reflection INTERFACE)
target_link_libraries(quire_grpc_reflection INTERFACE
  -Wl,--whole-archive ${QUIRE_GRPC_REFLECTION} -Wl,--no-whole-archive quire_grpc)

find_program(QUIRE_PROTOC protoc REQUIRED)
find_program(QUIRE_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

file(GLOB QUIRE_SITE_PACKAGES "${QUIRE_VENV}/lib/python3*/site-packages")
if(NOT QUIRE_SITE_PACKAGES)
  message(FATAL_ERROR "no Python environment at ${QUIRE_VENV}: run ./dev build, which makes it")
endif()
list(GET QUIRE_SITE_PACKAGES 0 QUIRE_SITE_PACKAGES)

if(QUIRE_TORCH)
  # TorchConfig.cmake stops without a CUDA toolkit, so the target is written by hand.
  set(torch_dir "${QUIRE_SITE_PACKAGES}/torch")
  if(NOT EXISTS "${torch_dir}/lib/libtorch_cpu.so")
    message(FATAL_ERROR "no libtorch in ${torch_dir}: run ./dev build, or configure with -DQUIRE_TORCH=OFF")
  endif()
  add_library(quire_torch INTERFACE)
  target_include_directories(quire_torch SYSTEM INTERFACE
    "${torch_dir}/include" "${torch_dir}/include/torch/csrc/api/include")
  target_link_libraries(quire_torch INTERFACE "${torch_dir}/lib/libtorch_cpu.so" "${torch_dir}/lib/libc10.so")
  target_link_options(quire_torch INTERFACE
    -Wl,--unresolved-symbols=ignore-in-shared-libs -Wl,--allow-shlib-undefined
    "-Wl,-rpath,${torch_dir}/lib" "-Wl,-rpath,${QUIRE_SITE_PACKAGES}/nvidia/cu13/lib"
    -Wl,--disable-new-dtags)
endif()

if(QUIRE_CUDA)
  # The CUDA runtime is linked into each binary. cuBLASLt and NCCL, 540 and 200 MB, are found where they
  # lie, or through LD_LIBRARY_PATH on another machine.
  set(QUIRE_CUDA_DIR "${QUIRE_SITE_PACKAGES}/nvidia/cu13")
  if(NOT EXISTS "${QUIRE_CUDA_DIR}/bin/nvcc")
    message(FATAL_ERROR "no nvcc in ${QUIRE_CUDA_DIR}: run ./dev build cuda, which installs it")
  endif()
  add_library(quire_cudart INTERFACE)
  target_include_directories(quire_cudart SYSTEM INTERFACE "${QUIRE_CUDA_DIR}/include")
  target_link_libraries(quire_cudart INTERFACE
    "${QUIRE_CUDA_DIR}/lib/libcudart_static.a" Threads::Threads ${CMAKE_DL_LIBS} rt)

  add_library(quire_cublaslt INTERFACE)
  target_link_libraries(quire_cublaslt INTERFACE quire_cudart "${QUIRE_CUDA_DIR}/lib/libcublasLt.so.13")
  target_link_options(quire_cublaslt INTERFACE "-Wl,-rpath,${QUIRE_CUDA_DIR}/lib" -Wl,--disable-new-dtags)

  set(nccl_dir "${QUIRE_SITE_PACKAGES}/nvidia/nccl")
  add_library(quire_nccl INTERFACE)
  target_include_directories(quire_nccl SYSTEM INTERFACE "${nccl_dir}/include")
  target_link_libraries(quire_nccl INTERFACE quire_cudart "${nccl_dir}/lib/libnccl.so.2")
  target_link_options(quire_nccl INTERFACE "-Wl,-rpath,${nccl_dir}/lib" -Wl,--disable-new-dtags)
endif()

if(QUIRE_TESTS)
  find_package(GTest REQUIRED)
  find_library(QUIRE_RAPIDCHECK rapidcheck)
endif()
