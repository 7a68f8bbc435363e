// Names of a model's modules for the configs of other tools: lists of names, or regular expressions
// that match whole names where they are shorter.
#ifndef CVXQ_FORMATS_MODULE_TARGETS_H_
#define CVXQ_FORMATS_MODULE_TARGETS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "formats/export_format.h"
#include "model/arch_spec.h"

namespace cvxq {

// As a causal language model of transformers calls a module; a checkpoint saved without the head
// lacks the leading "model.".
std::string ModuleName(const ArchSpec& spec, const std::string& tensor_name);

// An expression, "^...$", that matches this name alone.
std::string ExactExpression(const std::string& name);

// Targets for these of the matrices, in order: plain names, and expressions with `prefix` before
// them ("re:").
std::vector<std::string> ModuleTargets(const ArchSpec& spec,
                                       const std::vector<ExportMatrix>& matrices,
                                       const std::vector<size_t>& chosen,
                                       const std::string& prefix);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_MODULE_TARGETS_H_
