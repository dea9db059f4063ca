#include "common/server_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using testing::HasSubstr;

// A folder with a self-signed certificate and its key, which is an authority to itself.
class ServerFlagsTest : public testing::Test {
 protected:
  ServerFlagsTest() {
    Issue("own", /*first_second=*/0, /*last_second=*/3600);
    Issue("expired", -7200, -3600);
    Issue("future", 3600, 7200);
    std::ofstream(folder_ + "/text") << "no PEM at all\n";
  }

  std::string Cert(const std::string& name) const { return folder_ + "/" + name + ".pem"; }
  std::string Key(const std::string& name) const { return folder_ + "/" + name + "-key.pem"; }
  std::string Text() const { return folder_ + "/text"; }
  TlsFiles Own() const { return {Cert("own"), Key("own"), Cert("own")}; }

 private:
  // Valid in this interval, in seconds from now.
  void Issue(const std::string& name, long first_second, long last_second) {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(certificate), first_second);
    X509_gmtime_adj(X509_getm_notAfter(certificate), last_second);
    X509_set_pubkey(certificate, key);
    X509_sign(certificate, key, EVP_sha256());
    std::FILE* file = std::fopen(Cert(name).c_str(), "w");
    PEM_write_X509(file, certificate);
    std::fclose(file);
    file = std::fopen(Key(name).c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
    file = std::fopen(Key(name + "-locked").c_str(), "w");
    unsigned char passphrase[] = "passphrase";
    PEM_write_PrivateKey(file, key, EVP_aes_128_cbc(), passphrase, sizeof(passphrase) - 1, nullptr,
                         nullptr);
    std::fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }

  const TempFolder temp_;
  const std::string folder_ = temp_.path();
};

TEST_F(ServerFlagsTest, TlsFilesThatCanBeUsed) {
  EXPECT_TRUE(CheckTlsFiles({}).ok());
  EXPECT_TRUE(CheckTlsFiles(Own()).ok()) << CheckTlsFiles(Own());
}

TEST_F(ServerFlagsTest, NamesTheTlsFlagThatIsMissing) {
  const TlsFiles own = Own();
  EXPECT_THAT(CheckTlsFiles({"", own.key, own.ca}).message(), HasSubstr("--tls-cert is missing"));
  EXPECT_THAT(CheckTlsFiles({own.cert, "", own.ca}).message(), HasSubstr("--tls-key is missing"));
  EXPECT_THAT(CheckTlsFiles({own.cert, own.key, ""}).message(), HasSubstr("--tls-ca is missing"));
}

TEST_F(ServerFlagsTest, NamesTheTlsFileThatCannotBeUsed) {
  const TlsFiles own = Own();
  const std::string absent = Text() + "-absent";
  struct {
    TlsFiles files;
    std::string words;
  } const bad[] = {
      {{absent, own.key, own.ca}, "--tls-cert " + absent + ": cannot be read: No such file"},
      {{own.cert, absent, own.ca}, "--tls-key " + absent + ": cannot be read: No such file"},
      {{own.cert, own.key, absent}, "--tls-ca " + absent + ": cannot be read: No such file"},
      {{own.cert, own.key, "/"}, "--tls-ca /: cannot be read"},
      {{Text(), own.key, own.ca}, "--tls-cert " + Text() + ": holds no certificate"},
      {{own.cert, Text(), own.ca}, "--tls-key " + Text() + ": holds no private key"},
      {{own.cert, own.key, Text()}, "--tls-ca " + Text() + ": holds no certificate"},
      {{own.cert, Key("own-locked"), own.ca}, "without a passphrase"},
      {{own.cert, Key("expired"), own.ca}, "is not the key of the certificate"},
      {{Cert("expired"), Key("expired"), own.ca}, "--tls-cert " + Cert("expired") + ": the cert"},
      {{Cert("future"), Key("future"), own.ca}, "is not valid yet"},
      {{own.cert, own.key, Cert("expired")},
       "--tls-ca " + Cert("expired") + ": the certificate has"},
  };
  for (const auto& [files, words] : bad) {
    const absl::Status status = CheckTlsFiles(files);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(words));
    EXPECT_THAT(status.message(), Not(HasSubstr("\n")));
  }
}

TEST_F(ServerFlagsTest, ListensBeyondLoopbackWithTlsOrWhenTold) {
  ServerFlags flags;
  EXPECT_TRUE(CheckServerFlags(flags).ok());
  flags.host = "0.0.0.0";
  EXPECT_THAT(CheckServerFlags(flags).message(), HasSubstr("--insecure"));
  flags.insecure = true;
  EXPECT_TRUE(CheckServerFlags(flags).ok());
  flags.insecure = false;
  flags.tls = Own();
  EXPECT_TRUE(CheckServerFlags(flags).ok());
  flags.metrics_port = 9000;
  EXPECT_THAT(CheckServerFlags(flags).message(), HasSubstr("--metrics-port 9000"));
  flags.insecure = true;
  EXPECT_TRUE(CheckServerFlags(flags).ok());
  flags.tls.key = Text();
  EXPECT_THAT(CheckServerFlags(flags).message(), HasSubstr("--tls-key"));
}

}  // namespace
}  // namespace quire
