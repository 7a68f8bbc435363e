// Checkpoint folders of one and of many files, and everything that may be wrong with them.
#include "storage/checkpoint.h"

#include "storage/json.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

// A safetensors file of U8[2] tensors with these names.
std::string FileOf(const std::vector<std::string>& names) {
  std::string header = R"({"__metadata__":{"format":"pt","last":")" + names.back() + "\"}";
  size_t offset = 0;
  for (const std::string& name : names) {
    absl::StrAppend(&header, ",\"", name, "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[",
                    offset, ",", offset + 2, "]}");
    offset += 2;
  }
  return Safetensors(header + "}", offset);
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() { Put(folder_.File("config.json"), R"({"model_type":"opt"})"); }

  // Two good shards; a test spoils one thing.
  void PutShards() {
    Put(folder_.File("s1.safetensors"), FileOf({"a", "b"}));
    Put(folder_.File("s2.safetensors"), FileOf({"c"}));
    PutIndex(R"("a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors")");
  }
  void PutIndex(const std::string& weight_map) {
    Put(folder_.File("model.safetensors.index.json"),
        R"({"metadata":{"total_size":6},"weight_map":{)" + weight_map + "}}");
  }
  void ExpectRefused(absl::StatusCode code, const std::string& part) {
    const auto checkpoint = Checkpoint::Open(folder_.path());
    ExpectError(checkpoint.status(), code, part);
    ExpectError(checkpoint.status(), code, folder_.path());
  }

  TempFolder folder_;
};

TEST_F(CheckpointTest, OneFile) {
  Put(folder_.File("model.safetensors"), FileOf({"b", "a"}));
  const auto checkpoint = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const Checkpoint& c = **checkpoint;
  EXPECT_EQ(c.folder(), folder_.path());
  EXPECT_EQ(c.config()["model_type"], "opt");
  EXPECT_EQ(c.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.total_bytes(), 4);
  EXPECT_EQ(c.metadata().at("format"), "pt");
  ASSERT_TRUE(c.Get("a").ok());
  EXPECT_EQ(static_cast<int>(c.Get("a")->data[0]), 3);
  c.Release("a");
  c.Release("no such tensor");
  EXPECT_EQ(static_cast<int>(c.Get("a")->data[1]), 4);
  EXPECT_EQ(c.Find("c"), nullptr);
  ExpectError(c.Get("c").status(), absl::StatusCode::kNotFound,
              "tensor \"c\" is missing in " + folder_.path());
}

TEST_F(CheckpointTest, Shards) {
  PutShards();
  const auto checkpoint = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ((*checkpoint)->total_bytes(), 6);
  EXPECT_EQ(static_cast<int>((*checkpoint)->Get("b")->data[0]), 3);
  EXPECT_EQ(static_cast<int>((*checkpoint)->Get("c")->data[0]), 1);
  EXPECT_EQ((*checkpoint)->metadata().at("last"), "b");  // the first file wins
}

TEST_F(CheckpointTest, TellsOfTypesItCannotRead) {
  Put(folder_.File("model.safetensors"),
      Safetensors(R"({"q":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[0,2]},)"
                  R"("a":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                  3));
  const auto checkpoint = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Get("a").ok());
  EXPECT_EQ((*checkpoint)->names(), std::vector<std::string>{"a"});
  EXPECT_EQ((*checkpoint)->unsupported().at("q"), "F8_E5M2");
  ExpectError((*checkpoint)->Get("q").status(), absl::StatusCode::kUnimplemented, "F8_E5M2");
}

TEST_F(CheckpointTest, MissingFiles) {
  ExpectRefused(absl::StatusCode::kNotFound, "neither model.safetensors nor");
  std::filesystem::remove(folder_.File("config.json"));
  ExpectRefused(absl::StatusCode::kNotFound, "config.json is missing");
  ExpectError(Checkpoint::Open(folder_.File("none")).status(), absl::StatusCode::kNotFound,
              folder_.File("none"));
  Put(folder_.File("file"), "");
  ExpectError(Checkpoint::Open(folder_.File("file")).status(),
              absl::StatusCode::kFailedPrecondition, "is no folder");
}

TEST_F(CheckpointTest, BadConfig) {
  PutShards();
  for (const std::string text :
       {"", "{", "[1]", "3", "{\"a\":1}x", "{\"a\":\"\xff\"}", "{\"a\":1e999}"}) {
    SCOPED_TRACE(text);
    Put(folder_.File("config.json"), text);
    ExpectRefused(absl::StatusCode::kDataLoss, "config.json");
  }
  Put(folder_.File("config.json"), "{\"a\":" + std::string(1'000'000, '['));
  ExpectRefused(absl::StatusCode::kDataLoss, "no valid JSON");
  Put(folder_.File("config.json"),
      "{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}");
  ExpectRefused(absl::StatusCode::kDataLoss, "nested too deep");
  Put(folder_.File("config.json"), std::string("{}\0", 3));
  ExpectRefused(absl::StatusCode::kDataLoss, "zero byte");
}

TEST_F(CheckpointTest, BadSingleFile) {
  Put(folder_.File("model.safetensors"), FileOf({"a"}).substr(0, 60));
  ExpectRefused(absl::StatusCode::kDataLoss, "model.safetensors");
}

TEST_F(CheckpointTest, MissingAndBrokenShards) {
  PutShards();
  Put(folder_.File("s2.safetensors"), "rubbish");
  ExpectRefused(absl::StatusCode::kDataLoss, "s2.safetensors");
  std::filesystem::remove(folder_.File("s2.safetensors"));
  ExpectRefused(absl::StatusCode::kNotFound, "s2.safetensors is missing");
}

TEST_F(CheckpointTest, ShardNamesStayInTheFolder) {
  PutShards();
  std::filesystem::create_directory(folder_.File("sub"));
  Put(folder_.File("sub/s.safetensors"), FileOf({"a"}));
  for (const std::string name :
       {"sub/s.safetensors", "./s1.safetensors", "/etc/passwd", "..", "../s1.safetensors", ".", "",
        "a\\\\b", "s1.safetensors\\u0000", "a..b"}) {
    SCOPED_TRACE(name);
    PutIndex("\"a\":\"" + name + "\"");
    ExpectRefused(absl::StatusCode::kDataLoss, "no plain file name");
  }
}

TEST_F(CheckpointTest, BadIndex) {
  PutShards();
  const auto refuse = [&](const std::string& text, const std::string& part) {
    SCOPED_TRACE(text);
    Put(folder_.File("model.safetensors.index.json"), text);
    ExpectRefused(absl::StatusCode::kDataLoss, part);
  };
  refuse("", "no valid JSON");
  refuse("[]", "no weight_map");
  refuse("{}", "no weight_map");
  refuse(R"({"weight_map":[]})", "no weight_map");
  refuse(R"({"weight_map":{}})", "is empty");
  refuse(R"({"weight_map":{"a":1}})", "\"a\" is no string");
}

TEST_F(CheckpointTest, IndexAndShardsDisagree) {
  PutShards();
  // A tensor that its shard lacks.
  PutIndex(
      R"("a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors","d":"s2.safetensors")");
  ExpectRefused(absl::StatusCode::kDataLoss, "\"d\" is not in");
  // A tensor said to be in the wrong shard.
  PutIndex(R"("a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors")");
  ExpectRefused(absl::StatusCode::kDataLoss, "\"b\" is not in");
  // A tensor that the index does not list.
  PutIndex(R"("a":"s1.safetensors","c":"s2.safetensors")");
  ExpectRefused(absl::StatusCode::kDataLoss, "\"b\" is not listed for");
  // A tensor in two shards.
  PutShards();
  Put(folder_.File("s2.safetensors"), FileOf({"c", "a"}));
  ExpectRefused(absl::StatusCode::kDataLoss, "\"a\" is not listed for");
}

TEST(ParseJson, TakesWhatIsRightAndNoDeeperThanAllowed) {
  const std::string most = std::string(100, '[') + std::string(100, ']');
  EXPECT_TRUE(ParseJson(most, "x").ok());
  ExpectError(ParseJson("[" + most + "]", "x.json").status(), absl::StatusCode::kDataLoss,
              "x.json");
  EXPECT_EQ((*ParseJson(R"({"a":[1,2.5,"\u00e9"]})", "x"))["a"][2], "\xc3\xa9");
}

}  // namespace
}  // namespace cvxq
