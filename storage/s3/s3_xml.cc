#include "storage/s3/s3_xml.h"

#include <pugixml.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace cvxq {
namespace {

constexpr int64_t kLargestObject = int64_t{1} << 50;
constexpr size_t kLongestName = 8192;  // of tokens, upload ids and etags

Status Broken(const char* what) {
  return absl::DataLossError(absl::StrCat("a broken answer (", what, ")"));
}

// The root element, which must be called `name`; its text lives as long as `document`.
StatusOr<pugi::xml_node> Root(pugi::xml_document& document, std::string_view xml,
                              const char* name) {
  if (static_cast<int64_t>(xml.size()) > kLargestXml) return Broken("too much XML");
  const auto parsed =
      document.load_buffer(xml.data(), xml.size(),
                           pugi::parse_default | pugi::parse_ws_pcdata_single, pugi::encoding_utf8);
  if (!parsed) return Broken("no good XML");
  const pugi::xml_node root = document.document_element();
  if (std::string_view(root.name()) != name) return Broken("not the document that was asked for");
  return root;
}

// Digits only, at most `largest`.
StatusOr<int64_t> Number(const pugi::xml_node& parent, const char* name, int64_t largest) {
  const std::string text = parent.child(name).child_value();
  int64_t value = -1;
  bool digits = !text.empty() && text.size() <= 16;
  for (const char c : text) digits = digits && absl::ascii_isdigit(c);
  if (!digits || !absl::SimpleAtoi(text, &value) || value > largest) return Broken(name);
  return value;
}

// Neither empty nor with characters that cannot be in a header or a query of ours.
StatusOr<std::string> Name(const pugi::xml_node& parent, const char* name) {
  const std::string text = parent.child(name).child_value();
  bool good = !text.empty() && text.size() <= kLongestName;
  for (const char c : text) good = good && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  if (!good) return Broken(name);
  return text;
}

StatusOr<std::string> PercentDecoded(const std::string& text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+') {
      decoded += ' ';
    } else if (text[i] != '%') {
      decoded += text[i];
    } else if (i + 2 < text.size() && absl::ascii_isxdigit(text[i + 1]) &&
               absl::ascii_isxdigit(text[i + 2])) {
      decoded += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      return Broken("Key");
    }
  }
  return decoded;
}

std::string OnlyLetters(const char* text, const char* others) {
  std::string kept;
  for (; *text != '\0' && kept.size() < 64; ++text) {
    if (absl::ascii_isalnum(*text) || std::string_view(others).find(*text) != std::string::npos) {
      kept += *text;
    }
  }
  return kept;
}

}  // namespace

S3Error ParseS3Error(std::string_view xml) {
  pugi::xml_document document;
  const auto root = Root(document, xml, "Error");
  if (!root.ok()) return {};
  return {.code = OnlyLetters(root->child("Code").child_value(), "."),
          .region = OnlyLetters(root->child("Region").child_value(), "-")};
}

StatusOr<ListedObjects> ParseListObjects(std::string_view xml) {
  pugi::xml_document document;
  CVXQ_ASSIGN_OR_RETURN(const pugi::xml_node root, Root(document, xml, "ListBucketResult"));
  const bool encoded = std::string_view(root.child("EncodingType").child_value()) == "url";
  ListedObjects listed;
  for (const pugi::xml_node entry : root.children("Contents")) {
    ObjectInfo info;
    info.key = entry.child("Key").child_value();
    if (encoded) {
      CVXQ_ASSIGN_OR_RETURN(info.key, PercentDecoded(info.key));
    }
    CVXQ_ASSIGN_OR_RETURN(info.size, Number(entry, "Size", kLargestObject));
    CVXQ_ASSIGN_OR_RETURN(info.etag, Name(entry, "ETag"));
    listed.objects.push_back(std::move(info));
  }
  const std::string_view truncated = root.child("IsTruncated").child_value();
  if (truncated == "true") {
    CVXQ_ASSIGN_OR_RETURN(listed.next, Name(root, "NextContinuationToken"));
  } else if (truncated != "false") {
    return Broken("IsTruncated");
  }
  return listed;
}

StatusOr<std::string> ParseUploadId(std::string_view xml) {
  pugi::xml_document document;
  CVXQ_ASSIGN_OR_RETURN(const pugi::xml_node root,
                        Root(document, xml, "InitiateMultipartUploadResult"));
  return Name(root, "UploadId");
}

StatusOr<std::vector<ListedPart>> ParseListParts(std::string_view xml) {
  pugi::xml_document document;
  CVXQ_ASSIGN_OR_RETURN(const pugi::xml_node root, Root(document, xml, "ListPartsResult"));
  std::vector<ListedPart> parts;
  for (const pugi::xml_node entry : root.children("Part")) {
    ListedPart part;
    CVXQ_ASSIGN_OR_RETURN(const int64_t number, Number(entry, "PartNumber", 10'000));
    part.number = static_cast<int>(number);
    CVXQ_ASSIGN_OR_RETURN(part.size, Number(entry, "Size", kLargestObject));
    CVXQ_ASSIGN_OR_RETURN(part.etag, Name(entry, "ETag"));
    parts.push_back(std::move(part));
  }
  return parts;
}

Status ParseCompleted(std::string_view xml) {
  pugi::xml_document document;
  CVXQ_ASSIGN_OR_RETURN(const pugi::xml_node root,
                        Root(document, xml, "CompleteMultipartUploadResult"));
  return Name(root, "ETag").status();
}

std::string CompleteUploadXml(const std::vector<std::string>& etags) {
  std::string xml = "<CompleteMultipartUpload>";
  for (size_t i = 0; i < etags.size(); ++i) {
    std::string etag;
    for (const char c : etags[i]) {
      // Quotes may stand in text as they are.
      etag += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
    }
    absl::StrAppend(&xml, "<Part><PartNumber>", i + 1, "</PartNumber><ETag>", etag,
                    "</ETag></Part>");
  }
  return xml + "</CompleteMultipartUpload>";
}

}  // namespace cvxq
