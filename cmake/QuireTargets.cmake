# quire_library(NAME SOURCES ... [DEPS ...]): a library whose headers are included from the project root.
function(quire_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_include_directories(${name} PUBLIC "${PROJECT_SOURCE_DIR}")
    target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE "${PROJECT_SOURCE_DIR}")
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# Everything that ThreadSanitizer runs: the tests labelled so. The rest links gRPC's servers, which
# Debian builds without instrumentation.
add_custom_target(tsan_tests)
# What AddressSanitizer runs: every GoogleTest binary but those of clients/, whose build under a
# sanitizer takes longer than all the others together.
add_custom_target(asan_tests)

# quire_test(NAME SOURCES ... DEPS ... [LABELS ...] [TIMEOUT seconds]): one GoogleTest binary, each
# of its tests a ctest entry of its own. Labels: tsan (part of tsan_tests), slow (not in ./dev test
# quick, nor under AddressSanitizer), gpu (not in asan_tests; one at a time, skipped where there is no
# GPU). NO_ASAN keeps it out of asan_tests. PREFIX goes before the names of its tests.
function(quire_test name)
  cmake_parse_arguments(ARG "NO_MAIN;NO_ASAN" "TIMEOUT;PREFIX" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest)
  if(NOT ARG_NO_MAIN)
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if("tsan" IN_LIST ARG_LABELS)
    add_dependencies(tsan_tests ${name})
  endif()
  set(properties TIMEOUT ${ARG_TIMEOUT})
  if("gpu" IN_LIST ARG_LABELS)
    list(APPEND properties RESOURCE_LOCK gpu)
  elseif(NOT ARG_NO_ASAN)
    add_dependencies(asan_tests ${name})
    list(PREPEND ARG_LABELS asan)
  endif()
  # One label a test, since a list does not survive the way to ctest; ctest matches parts of it.
  list(JOIN ARG_LABELS "_" labels)
  include(GoogleTest)
  # Values of parameters stay out of the names: their addresses differ from run to run.
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES TEST_PREFIX "${ARG_PREFIX}"
    PROPERTIES ${properties} LABELS "${labels}")
endfunction()

# Fails the build when an include crosses a zone border (docs/architecture.md).
add_custom_target(zone_check ALL
  COMMAND python3 "${PROJECT_SOURCE_DIR}/tools/check_zones.py" "${PROJECT_SOURCE_DIR}"
  COMMENT "Checking that includes respect the zones" VERBATIM)

# quire_python_test(NAME FILE [PATHS folder ...] [LABELS ...] [TIMEOUT seconds]): one unittest file, run by the
# environment's Python with the client library and `PATHS` importable; a ctest entry of that name.
function(quire_python_test name file)
  cmake_parse_arguments(ARG "" "TIMEOUT" "PATHS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  list(JOIN ARG_PATHS ":" paths)
  add_test(NAME ${name} COMMAND "${QUIRE_VENV}/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "PYTHONPATH=${PROJECT_SOURCE_DIR}/clients/python:${paths};QUIRE_BIN=${PROJECT_BINARY_DIR}/bin")
endfunction()
