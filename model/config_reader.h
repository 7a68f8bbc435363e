// Typed reading of config.json: the first thing that is wrong is kept as one clear line, so that
// the code that reads a config is a list of fields and not of checks.
//
//   ConfigReader read(config, "folder/config.json");
//   spec.hidden = read.Size("hidden_size");
//   spec.tied_head = read.Bool("tie_word_embeddings", true);
//   CVXQ_RETURN_IF_ERROR(read.status());
#ifndef CVXQ_MODEL_CONFIG_READER_H_
#define CVXQ_MODEL_CONFIG_READER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// After an error every member goes on to return harmless values (1 for a size). `object` outlives
// the reader. A missing field and a null one are the same unless a member says otherwise.
class ConfigReader {
 public:
  // `where` is the file, `prefix` the path of the object inside it ("rope_scaling.").
  ConfigReader(const nlohmann::json& object, std::string where, std::string prefix = "");

  bool Has(const std::string& field) const { return Find(field) != nullptr; }
  bool IsNull(const std::string& field) const;  // there, and null
  // nullptr if missing or null.
  const nlohmann::json* Find(const std::string& field) const;

  // An integer from 1 to 2^30; required, or with a value for a missing field.
  int64_t Size(const std::string& field, std::optional<int64_t> missing = std::nullopt);
  // As Size; 0 for null.
  int64_t SizeOrNone(const std::string& field, int64_t missing);
  // A finite number; required, or with a value for a missing field.
  double Number(const std::string& field, std::optional<double> missing = std::nullopt);
  // A number above 0; the same otherwise.
  double Positive(const std::string& field, std::optional<double> missing = std::nullopt);
  // As Positive; 0 for null.
  double PositiveOrNone(const std::string& field, double missing);
  bool Bool(const std::string& field, bool missing);
  std::string String(const std::string& field, std::optional<std::string> missing = std::nullopt);
  // The field, if given, must have this value: any other asks for a computation we do not have.
  void Expect(const std::string& field, const nlohmann::json& value);

  // A senseless value (kDataLoss) or one that is not supported (kUnimplemented): "<file>: <field>
  // <text>".
  void Broken(const std::string& field, const std::string& text);
  void Unsupported(const std::string& field, const std::string& text);
  void Keep(const Status& status) { status_.Update(status); }
  const Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& object_;
  std::string where_, prefix_;
  Status status_;
};

}  // namespace cvxq

#endif  // CVXQ_MODEL_CONFIG_READER_H_
