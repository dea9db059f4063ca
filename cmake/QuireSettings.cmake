# Compiler, linker and output settings shared by every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)

set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -fno-omit-frame-pointer")

# -ffp-contract=off: a fused multiply-add happens where the source says so and nowhere else, so that
# every instruction-set path of a kernel rounds alike (docs/numerics.md).
set(QUIRE_COMPILE_OPTIONS -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
                          -ffp-contract=off -fno-math-errno)
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${QUIRE_COMPILE_OPTIONS}>")

find_program(QUIRE_CCACHE ccache)
if(QUIRE_CCACHE)
  # The sloppiness is what precompiled headers need; the base directory lets checkouts share results.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${QUIRE_CCACHE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # clang writes the headers' times into a precompiled header; without, its objects are found again.
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")
  endif()
endif()

find_program(QUIRE_LLD ld.lld)
if(QUIRE_LLD)
  add_link_options(-fuse-ld=lld)
endif()

if(QUIRE_SANITIZE)
  add_compile_options(-fsanitize=${QUIRE_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${QUIRE_SANITIZE})
endif()
