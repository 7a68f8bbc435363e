# proto/cvxq/**/*.proto and the files of third_party/googleapis that they import, as the library
# cvxq_proto: #include "cvxq/v1/NAME.pb.h", "cvxq/v1/NAME.grpc.pb.h".
file(GLOB_RECURSE own_protos CONFIGURE_DEPENDS RELATIVE "${CMAKE_SOURCE_DIR}/proto"
     "${CMAKE_SOURCE_DIR}/proto/*.proto")
file(GLOB_RECURSE common_protos CONFIGURE_DEPENDS RELATIVE
     "${CMAKE_SOURCE_DIR}/third_party/googleapis" "${CMAKE_SOURCE_DIR}/third_party/googleapis/*.proto")
set(proto_out "${CMAKE_BINARY_DIR}/proto")
file(MAKE_DIRECTORY "${proto_out}")
set(proto_sources)
foreach(proto IN LISTS own_protos common_protos)
  if(proto IN_LIST own_protos)
    set(root "${CMAKE_SOURCE_DIR}/proto")
  else()
    set(root "${CMAKE_SOURCE_DIR}/third_party/googleapis")
  endif()
  string(REGEX REPLACE "\\.proto$" "" stem "${proto}")
  set(outputs "${proto_out}/${stem}.pb.cc" "${proto_out}/${stem}.grpc.pb.cc")
  add_custom_command(
    OUTPUT ${outputs} "${proto_out}/${stem}.pb.h" "${proto_out}/${stem}.grpc.pb.h"
    COMMAND ${PROTOC} -I "${CMAKE_SOURCE_DIR}/proto" -I "${CMAKE_SOURCE_DIR}/third_party/googleapis"
            --cpp_out=${proto_out} --grpc_out=${proto_out}
            --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN} ${root}/${proto}
    DEPENDS "${root}/${proto}"
    COMMENT "protoc ${proto}" VERBATIM)
  list(APPEND proto_sources ${outputs})
endforeach()
add_library(cvxq_proto STATIC ${proto_sources})
target_include_directories(cvxq_proto SYSTEM PUBLIC "${proto_out}")
target_compile_options(cvxq_proto PRIVATE -w)
target_link_libraries(cvxq_proto PUBLIC gRPC::grpc++ gRPC::grpc++_reflection protobuf::libprotobuf)
