# The GPU backend, kernels/cuda. With CVXQ_CUDA it is a part of the program, which then needs NVIDIA's
# libraries to start; without, a stub stands in, and the backend is only compiled for its tests, where
# there is nvcc.
include(CheckLanguage)
set(CVXQ_CUDA_SOURCES "without_cuda/*.cc")
set(CVXQ_NVCC OFF)
if(NOT CVXQ_SANITIZE)
  check_language(CUDA)
endif()
if(CMAKE_CUDA_COMPILER)
  if(CVXQ_CUDA)  # all cards since compute capability 8.0; the last one's PTX serves later ones
    set(architectures "80-real;86-real;89-real;90-real;100-real;120")
  else()
    set(architectures "90-real")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "Compute capabilities to compile for")
  # Warnings are the host compiler's, in tests/cuda_shim.
  set(CMAKE_CUDA_FLAGS
      "--expt-relaxed-constexpr --extended-lambda -Xcompiler=-ffp-contract=off -lineinfo")
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # which CMake 3.25 does not know
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    set(CVXQ_NVCC ON)
  endif()
endif()
if(CVXQ_NVCC)
  if(CVXQ_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${CVXQ_CCACHE}")
  endif()
  find_package(CUDAToolkit REQUIRED)
  set(CVXQ_CUDA_LIBRARIES CUDA::cudart_static CUDA::cublasLt CUDA::cusolver)
endif()
if(CVXQ_CUDA)
  if(NOT CVXQ_NVCC)
    message(FATAL_ERROR "CVXQ_CUDA needs the CUDA toolkit 13 (nvcc on the PATH, or CUDACXX)")
  endif()
  set(CVXQ_CUDA_SOURCES "cuda/*.cu" "cuda/*.cc")
endif()
