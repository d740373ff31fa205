#include "einkorn/core/python_peer.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace einkorn {
namespace {

TEST(PythonPeer, TimesItsStatementInTurn) {
  Contest contest;
  set_python_peer(contest, "import time\nn = 0\n", "n += 1\ntime.sleep(0.01 * n)\n");
  ASSERT_TRUE(contest.peer) << contest.peer_missing;
  EXPECT_GE(contest.peer(), 0.01);
  EXPECT_GE(contest.peer(), 0.02) << "names of the statement live on between calls";
}

TEST(PythonPeer, SaysWhichPackageIsMissing) {
  Contest contest;
  set_python_peer(contest, "import no_such_package_anywhere\n", "pass\n");
  EXPECT_FALSE(contest.peer);
  EXPECT_NE(contest.peer_missing.find("no_such_package_anywhere"), std::string::npos);
}

TEST(PythonPeer, AStatementThatFailsIsAnError) {
  Contest contest;
  set_python_peer(contest, "", "raise SystemExit\n");
  ASSERT_TRUE(contest.peer);
  EXPECT_THROW(contest.peer(), std::runtime_error);
}

TEST(PythonPeer, ScriptsGiveTheirOutput) {
  EXPECT_EQ(run_python("print(6 * 7)"), "42\n");
  EXPECT_THROW(run_python("raise SystemExit(3)"), std::runtime_error);
}

}  // namespace
}  // namespace einkorn
