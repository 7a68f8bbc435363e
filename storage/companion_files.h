// The files beside a checkpoint's weights that a changed copy of the model keeps: the tokenizer's,
// the chat template, the defaults of generation.
#ifndef CVXQ_STORAGE_COMPANION_FILES_H_
#define CVXQ_STORAGE_COMPANION_FILES_H_

#include <cstdint>
#include <map>
#include <string>

#include "base/status.h"
#include "storage/folder.h"

namespace cvxq {

// Those that a folder has, with their sizes.
StatusOr<std::map<std::string, int64_t>> CompanionFiles(const Folder& folder);

// Writes copies of these into the folder `to` of this machine.
Status CopyFiles(const Folder& from, const std::map<std::string, int64_t>& files,
                 const std::string& to);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_COMPANION_FILES_H_
