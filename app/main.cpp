#include <string>
#include <vector>

#include "app/command.h"

int main(int count, char** words) {
  return einkorn::app::run_command(std::vector<std::string>(words + 1, words + count));
}
