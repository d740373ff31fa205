# Core and parsers without torch, under ASan and UBSan, and one fuzz target for each parser (clang's libFuzzer).

if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
  message(FATAL_ERROR "EINKORN_SANITIZE needs clang: use the preset `sanitize`")
endif()
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
find_package(GTest REQUIRED)
find_path(RAPIDCHECK_INCLUDE_DIR rapidcheck.h REQUIRED)
include(GoogleTest)
enable_testing()

set(core ${PROJECT_SOURCE_DIR}/einkorn/core)
set(core_sources
  ${core}/error.cpp ${core}/options.cpp ${core}/report.cpp ${core}/progress.cpp ${core}/system.cpp
  ${core}/isa.cpp ${core}/random.cpp ${core}/data.cpp ${core}/text.cpp)
file(GLOB file_sources CONFIGURE_DEPENDS ${core}/files/*.cpp)
set(file_tests ${file_sources})
list(FILTER file_tests INCLUDE REGEX "_test\\.cpp$")
list(FILTER file_sources EXCLUDE REGEX "_test\\.cpp$")

add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1)
add_link_options(-fsanitize=address,undefined)
add_compile_definitions(FMT_HEADER_ONLY)
include_directories(${PROJECT_SOURCE_DIR})

add_library(einkorn_core STATIC ${core_sources} ${file_sources})
target_compile_options(einkorn_core PRIVATE -fsanitize=fuzzer-no-link)
target_link_libraries(einkorn_core PUBLIC einkorn_warnings nlohmann_json::nlohmann_json ZLIB::ZLIB ${CMAKE_DL_LIBS})

# RapidCheck and GoogleTest come compiled with g++'s library, which clang uses here as well.
find_library(RAPIDCHECK_LIBRARY rapidcheck REQUIRED)
file(GLOB core_tests CONFIGURE_DEPENDS ${core}/*_test.cpp)
list(FILTER core_tests EXCLUDE REGEX "(tensor|machine|trace|python_peer|registry)_test\\.cpp$")
add_executable(test_sanitized ${core_tests} ${file_tests})
target_include_directories(test_sanitized SYSTEM PRIVATE ${RAPIDCHECK_INCLUDE_DIR})
target_link_libraries(test_sanitized PRIVATE einkorn_core GTest::gtest_main GTest::gmock ${RAPIDCHECK_LIBRARY})
gtest_discover_tests(test_sanitized NO_PRETTY_VALUES PROPERTIES TIMEOUT 600)

file(GLOB fuzz_sources CONFIGURE_DEPENDS ${core}/files/fuzz/*_fuzz.cpp)
foreach(source IN LISTS fuzz_sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fuzz)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE einkorn_core)
endforeach()
