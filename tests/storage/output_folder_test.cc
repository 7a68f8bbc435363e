// Output folders appear complete or not at all.
#include <sys/stat.h>
#include <unistd.h>

#include "storage/files.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

TEST(OutputFolder, AppearsAtPublish) {
  const TempFolder folder;
  const std::string final_path = folder.File("out");
  {
    auto out = OutputFolder::Create(final_path + "//", false);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE((*out)->path().starts_with(final_path + ".partial-")) << (*out)->path();
    Put((*out)->File("a"), "1");
    fs::create_directory((*out)->File("sub"));
    Put((*out)->File("sub/b"), "2");
    EXPECT_FALSE(fs::exists(final_path));
    const Status status = (*out)->Publish();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ((*out)->path(), final_path);
  }
  EXPECT_EQ(Slurp(final_path + "/a"), "1");
  EXPECT_EQ(Slurp(final_path + "/sub/b"), "2");
  EXPECT_EQ(folder.Count(), 1);
}

TEST(OutputFolder, GoesAwayUnlessPublished) {
  const TempFolder folder;
  {
    auto out = OutputFolder::Create(folder.File("out"), false);
    ASSERT_TRUE(out.ok()) << out.status();
    Put((*out)->File("a"), "1");
    EXPECT_EQ(folder.Count(), 1);
  }
  EXPECT_EQ(folder.Count(), 0);
}

TEST(OutputFolder, TakesABareName) {
  const TempFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  {
    auto out = OutputFolder::Create("out", false);
    EXPECT_TRUE(out.ok() && (*out)->Publish().ok());
  }
  fs::current_path(before);
  EXPECT_TRUE(fs::is_directory(folder.File("out")));
}

TEST(OutputFolder, ReplacesOnlyWhenTold) {
  const TempFolder folder;
  const std::string final_path = folder.File("out");
  fs::create_directory(final_path);
  Put(final_path + "/old", "old");
  ExpectError(OutputFolder::Create(final_path, false).status(), absl::StatusCode::kAlreadyExists,
              "--overwrite");
  {
    auto out = OutputFolder::Create(final_path, true);
    ASSERT_TRUE(out.ok()) << out.status();
  }
  EXPECT_EQ(Slurp(final_path + "/old"), "old");  // not published, so nothing happened
  auto out = OutputFolder::Create(final_path, true);
  ASSERT_TRUE(out.ok()) << out.status();
  Put((*out)->File("new"), "new");
  EXPECT_TRUE(fs::exists(final_path + "/old"));
  const Status status = (*out)->Publish();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_FALSE(fs::exists(final_path + "/old"));
  EXPECT_EQ(Slurp(final_path + "/new"), "new");
  EXPECT_EQ(folder.Count(), 1);
}

TEST(OutputFolder, ReplacesALinkAndSparesItsTarget) {
  const TempFolder folder;
  fs::create_directory(folder.File("target"));
  Put(folder.File("target/kept"), "kept");
  fs::create_symlink(folder.File("target"), folder.File("out"));
  auto out = OutputFolder::Create(folder.File("out"), true);
  ASSERT_TRUE(out.ok()) << out.status();
  ASSERT_TRUE((*out)->Publish().ok());
  EXPECT_FALSE(fs::is_symlink(folder.File("out")));
  EXPECT_EQ(Slurp(folder.File("target/kept")), "kept");
  EXPECT_EQ(folder.Count(), 2);
}

TEST(OutputFolder, DoesNotReplaceWhatAppearedMeanwhile) {
  const TempFolder folder;
  auto out = OutputFolder::Create(folder.File("out"), false);
  ASSERT_TRUE(out.ok()) << out.status();
  fs::create_directory(folder.File("out"));
  ExpectError((*out)->Publish(), absl::StatusCode::kAlreadyExists, folder.File("out"));
  out->reset();
  EXPECT_EQ(folder.Count(), 1);
}

TEST(OutputFolder, RemovesWhatAKilledProcessLeftAndNothingElse) {
  const TempFolder folder;
  const std::string left = folder.File("out.partial-7"), notes = folder.File("out.partial-notes"),
                    other = folder.File("outer.partial-7");
  for (const std::string& path : {left, notes, other}) {
    fs::create_directory(path);
    Put(path + "/a", "1");
  }
  // One that lives has a lock on its folder.
  const auto living = OutputFolder::Create(folder.File("out"), false);
  ASSERT_TRUE(living.ok()) << living.status();
  EXPECT_FALSE(fs::exists(left));
  auto out = OutputFolder::Create(folder.File("out"), false);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ((*out)->path(), absl::StrCat(folder.File("out.partial-"), getpid(), "-2"));
  EXPECT_TRUE(fs::exists((*living)->path()));
  ASSERT_TRUE((*out)->Publish().ok());
  EXPECT_TRUE(fs::exists((*living)->path()));
  EXPECT_TRUE(fs::exists(notes + "/a"));
  EXPECT_TRUE(fs::exists(other + "/a"));
}

TEST(OutputFolder, RefusesBadPlacesAtOnce) {
  const TempFolder folder;
  for (const std::string name : {"", "/", ".", "..", "a/.."}) {
    SCOPED_TRACE(name);
    ExpectError(OutputFolder::Create(name, true).status(), absl::StatusCode::kInvalidArgument,
                "\"" + name + "\"");
  }
  ExpectError(OutputFolder::Create(folder.File("no/out"), false).status(),
              absl::StatusCode::kNotFound, "the folder " + folder.File("no") + " is missing");
  Put(folder.File("file"), "");
  ExpectError(OutputFolder::Create(folder.File("file"), true).status(),
              absl::StatusCode::kFailedPrecondition, "it is no folder");
  EXPECT_FALSE(OutputFolder::Create(folder.File("file/out"), false).ok());
  if (geteuid() != 0) {  // root may write anywhere
    fs::create_directory(folder.File("closed"));
    chmod(folder.File("closed").c_str(), 0500);
    ExpectError(OutputFolder::Create(folder.File("closed/out"), false).status(),
                absl::StatusCode::kPermissionDenied, folder.File("closed/out"));
    chmod(folder.File("closed").c_str(), 0700);
  }
}

}  // namespace
}  // namespace cvxq
