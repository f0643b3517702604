/* A library whose functions are named by the macro NAME: built twice, it lies at one path inside and outside of a chroot, with the same
 * code at the same addresses under other names. */
#include "chain.h"

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define OWN(number) JOIN(NAME, number)

ALONE long OWN(03)(const char *mode, long n) {
    do_as_asked(mode);
    return n;
}
ALONE long OWN(02)(const char *mode, long n) { return OWN(03)(mode, n + 1) + 1; }
ALONE long OWN(01)(const char *mode, long n) { return OWN(02)(mode, n + 1) + 1; }

/* The name that both have. */
ALONE long enter(const char *mode, long n) { return OWN(01)(mode, n + 1) + 1; }
