#ifndef QUIRE_CLIENTS_CLI_TEXT_TABLE_H_
#define QUIRE_CLIENTS_CLI_TEXT_TABLE_H_

#include <string>
#include <vector>

namespace quire {

// Rows of text in aligned columns: the first column to the left, the others to the right.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  // REQUIRES: as many cells as the header has.
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Lines, each ended by a newline.
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_TEXT_TABLE_H_
