# The GPU backend, kernels/cuda: with CVXQ_CUDA its sources, the libraries they need, and machine
# code for every card since compute capability 8.0; else one stub.
if(CVXQ_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;100-real;120" CACHE STRING
      "Compute capabilities to compile for; the last one's PTX serves later cards")
  # Includes are not repeated for the host's warnings: the same sources are compiled with all of
  # them in tests/cuda.
  set(CMAKE_CUDA_FLAGS "--expt-relaxed-constexpr --extended-lambda -Xcompiler=-ffp-contract=off -lineinfo")
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
    message(FATAL_ERROR "CVXQ_CUDA needs the CUDA toolkit 13, not ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  if(CVXQ_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${CVXQ_CCACHE}")
  endif()
  find_package(CUDAToolkit REQUIRED)
  set(CVXQ_CUDA_SOURCES "cuda/*.cu" "cuda/*.cc")
  set(CVXQ_CUDA_LIBRARIES CUDA::cudart_static CUDA::cublasLt CUDA::cusolver)
else()
  set(CVXQ_CUDA_SOURCES "without_cuda/*.cc")
  set(CVXQ_CUDA_LIBRARIES "")
endif()
