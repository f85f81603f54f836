/* sha256.c - the SHA-256 hash of FIPS 180-4, by libcrypto of OpenSSL, which uses a processor's SHA instructions.
**
** The functions of <openssl/sha.h> work in the caller's memory and touch nothing else. EVP_Digest*, which their manual
** recommends since 3.0, allocates, reads openssl.cnf and registers an exit handler for the process; and an allocation that fails
** in its first call disables libcrypto for the life of the process, or leaves it waiting for itself. */
#define OPENSSL_API_COMPAT 10100 /* the interface of OpenSSL 1.1, without warnings; 3 and 4 have it too */
#include "io/sha256.h"

#include <openssl/sha.h>

_Static_assert(sizeof(SHA256_CTX) <= sizeof(mocl_sha256) && _Alignof(SHA256_CTX) <= _Alignof(mocl_sha256),
               "mocl_sha256 holds what the library keeps");

static SHA256_CTX *inner(mocl_sha256 *h) { return (SHA256_CTX *)(void *)h->state; }

/* These return an int for the interface's sake: it is always 1. */
void mocl_sha256_begin(mocl_sha256 *h) { SHA256_Init(inner(h)); }
void mocl_sha256_add(mocl_sha256 *h, const void *data, size_t n) { SHA256_Update(inner(h), data, n); }

void mocl_sha256_end(mocl_sha256 *h, char hex[MOCL_SHA256_HEX]) {
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[SHA256_DIGEST_LENGTH];
    SHA256_Final(bytes, inner(h));
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * SHA256_DIGEST_LENGTH] = '\0';
}
