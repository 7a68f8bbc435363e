// Which type each matrix of an export gets: the least distortion for so many bytes, where what each
// type costs and loses is known.
#ifndef CVXQ_PIPELINE_TYPE_CHOICE_H_
#define CVXQ_PIPELINE_TYPE_CHOICE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"

namespace cvxq {

// One type for a matrix, or for those that share theirs.
struct TypeOption {
  int64_t bytes = 0;      // not negative
  double distortion = 0;  // nats a token
};
using TypeOptions = std::vector<TypeOption>;

struct TypeChoice {
  std::vector<size_t> option;  // of each item
  int64_t bytes = 0;
  double distortion = 0;
  double log2_lambda = 0;  // nats a byte, where the ascent ended
};

// Minimises the sum of distortions over items with the sum of bytes at most `budget`: at a
// multiplier lambda each item takes the option of least distortion + lambda bytes; lambda rises or
// falls until the bytes just fit (dual ascent, here by bisection, since options are few). That
// leaves what lies between two multipliers: dynamic programming over bytes finds the best of all
// choices where bytes come in few enough units, and a start as good as units are fine where not;
// exchanges - single changes and pairs of them that lower the distortion within the budget, the
// best first - do the rest.
// kInvalidArgument where even the smallest options exceed the budget: the message says how many
// bytes they take. Every item has at least one option. Ties go to the lower index.
StatusOr<TypeChoice> ChooseTypes(const std::vector<TypeOptions>& items, int64_t budget);

// By how many bytes one item could still grow and lose less: the least and the most over all items
// and options, 0 where there is no such option. What a choice of ChooseTypes leaves of its budget
// is less than the least.
struct TypeSteps {
  int64_t least = 0, most = 0;
};
TypeSteps StepsFrom(const std::vector<TypeOptions>& items, const TypeChoice& choice);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_TYPE_CHOICE_H_
