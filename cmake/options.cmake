# Language, warnings and optimisation, the same for every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)

# Results must not depend on where the compiler fuses a multiply and an add:
# contraction is off everywhere and explicit (std::fma, intrinsics) where wanted.
# Designated initialisers leave the other members at their defaults on purpose.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror;-Wno-missing-field-initializers;-ffp-contract=off>")

find_program(CVXQ_CCACHE ccache)
if(CVXQ_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CVXQ_CCACHE}")
endif()
find_program(CVXQ_MOLD mold)
if(CVXQ_MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_link_options(-fuse-ld=mold)
endif()

set(CVXQ_SANITIZE "" CACHE STRING "Value of -fsanitize=, for instance address,undefined")
if(CVXQ_SANITIZE)
  add_compile_options(-fsanitize=${CVXQ_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${CVXQ_SANITIZE})
endif()
