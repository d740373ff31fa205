# Finds what the house stands on. tools/setup.sh installs all of it.

find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Eigen3 REQUIRED NO_MODULE)
find_package(ZLIB REQUIRED)
find_path(HIGHWAY_INCLUDE_DIR hwy/highway.h REQUIRED)

# Python carries torch. The interpreter is the one named, else the project's own environment, else the first on PATH.
if(NOT DEFINED Python_EXECUTABLE AND EXISTS ${PROJECT_SOURCE_DIR}/.venv/bin/python)
  set(Python_EXECUTABLE ${PROJECT_SOURCE_DIR}/.venv/bin/python)
endif()
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)

execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import torch; print(torch.utils.cmake_prefix_path, torch.__version__.split('+')[0], int(torch.version.cuda is not None))"
  OUTPUT_VARIABLE torch_facts OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no torch: run `make setup`, or name a Python that has one with -DPython_EXECUTABLE=...")
endif()
separate_arguments(torch_facts)
list(GET torch_facts 0 torch_prefix)
list(GET torch_facts 1 torch_version)
list(GET torch_facts 2 torch_has_cuda)
if(torch_version VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${torch_version} is too old: einkorn needs 2.11 or newer")
endif()

# CUDA sources compile wherever nvcc is found; they are linked when torch can use them.
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
endif()
if(CMAKE_CUDA_COMPILER AND torch_has_cuda)
  set(EINKORN_WITH_CUDA 1)
else()
  set(EINKORN_WITH_CUDA 0)
endif()

list(APPEND CMAKE_PREFIX_PATH ${torch_prefix})
# torch's own configuration asks for an architecture list; ours has already chosen.
set(TORCH_CUDA_ARCH_LIST "9.0a" CACHE STRING "For torch's configuration only")
find_package(Torch REQUIRED)
find_library(TORCH_PYTHON_LIBRARY torch_python PATHS ${TORCH_INSTALL_PREFIX}/lib NO_DEFAULT_PATH)

message(STATUS "torch ${torch_version} of ${Python_EXECUTABLE}; CUDA linked: ${EINKORN_WITH_CUDA}")
