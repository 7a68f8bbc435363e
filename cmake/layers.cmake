# The parts of the program, lowest first. A library may use only what its line names;
# tests/layers_test.py holds every #include against this table.

# cvxq_library(folder [SOURCES extra globs] LINK libraries...)
function(cvxq_library folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  set(globs "${CMAKE_SOURCE_DIR}/${folder}/*.cc")
  foreach(extra IN LISTS ARG_SOURCES)
    list(APPEND globs "${CMAKE_SOURCE_DIR}/${folder}/${extra}")
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${globs})
  if(NOT sources)
    add_library(cvxq_${folder} INTERFACE)
    target_link_libraries(cvxq_${folder} INTERFACE ${ARG_LINK})
    return()
  endif()
  add_library(cvxq_${folder} STATIC ${sources})
  target_include_directories(cvxq_${folder} PUBLIC "${CMAKE_SOURCE_DIR}")
  target_link_libraries(cvxq_${folder} PUBLIC ${ARG_LINK})
endfunction()

cvxq_library(base LINK absl::status absl::statusor absl::strings absl::str_format absl::time
             OpenSSL::Crypto Threads::Threads)
cvxq_library(tensor LINK cvxq_base)
cvxq_library(storage SOURCES "s3/*.cc" LINK cvxq_tensor nlohmann_json::nlohmann_json CURL::libcurl ZLIB::ZLIB
             pugixml::pugixml)
include(cuda)
cvxq_library(kernels SOURCES "reference/*.cc" "cpu/*.cc" ${CVXQ_CUDA_SOURCES}
             LINK cvxq_tensor DNNL::dnnl gomp)
if(CVXQ_CUDA)
  target_link_libraries(cvxq_kernels PUBLIC ${CVXQ_CUDA_LIBRARIES})
endif()
cvxq_library(model LINK cvxq_kernels cvxq_storage PkgConfig::ONIGURUMA PkgConfig::UTF8PROC)
cvxq_library(quant LINK cvxq_kernels ZLIB::ZLIB)
cvxq_library(formats LINK cvxq_model cvxq_quant)
cvxq_library(pipeline LINK cvxq_formats Eigen3::Eigen)
include(embed)
cvxq_embed(cvxq_pipeline cvxq_calibration_text "${CMAKE_SOURCE_DIR}/examples/text/kjv.calib.txt")

include(proto)
cvxq_library(service SOURCES "store/*.cc" "api/*.cc" "workers/*.cc" LINK cvxq_pipeline cvxq_proto SQLite::SQLite3 PkgConfig::HIREDIS
             prometheus-cpp::pull)

# A file named *_avx2.cc, *_avx512.cc or *_avx512bf16.cc is compiled for that instruction set and called only
# after a check at run time. Such files keep everything in an unnamed namespace and include no
# header with inline functions, so that no code of theirs is linked into the common path.
file(GLOB avx2_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx2.cc"
     "${CMAKE_SOURCE_DIR}/quant/*_avx2.cc" "${CMAKE_SOURCE_DIR}/formats/*_avx2.cc")
file(GLOB avx512_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx512.cc"
     "${CMAKE_SOURCE_DIR}/quant/*_avx512.cc" "${CMAKE_SOURCE_DIR}/formats/*_avx512.cc")
set_source_files_properties(${avx2_sources} PROPERTIES COMPILE_OPTIONS
                            "-march=x86-64-v3;-O3")
set_source_files_properties(${avx512_sources} PROPERTIES COMPILE_OPTIONS
                            "-march=x86-64-v4;-mprefer-vector-width=512;-O3")
# Its loops over rows are plain ones of unknown length, which are vectorised at this level only.
set_source_files_properties(quant/feedback.cc PROPERTIES COMPILE_OPTIONS "-O3")
set_source_files_properties(kernels/cpu/packed_strip_avx512bf16.cc PROPERTIES COMPILE_OPTIONS
                            "-march=x86-64-v4;-mavx512bf16;-mprefer-vector-width=512;-O3")
# The backend's vector code may fuse a multiply and an add: its results depend on the instruction
# set anyway. The other files (packed matrices, exact to the bit) may not.
set_property(SOURCE kernels/cpu/vector_ops_avx2.cc kernels/cpu/vector_ops_avx512.cc
             APPEND PROPERTY COMPILE_OPTIONS "-ffp-contract=fast")
set_property(SOURCE kernels/cpu/vector_ops_baseline.cc kernels/cpu/vector_ops_avx2.cc
                    kernels/cpu/vector_ops_avx512.cc
             APPEND PROPERTY COMPILE_OPTIONS "-fno-math-errno")

file(GLOB cli_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/cli/*.cc")
if(cli_sources)
  add_executable(cvxq ${cli_sources})
  target_link_libraries(cvxq PRIVATE cvxq_service CLI11::CLI11)
  target_compile_definitions(cvxq PRIVATE CVXQ_VERSION="${PROJECT_VERSION}")
  install(TARGETS cvxq)
endif()
