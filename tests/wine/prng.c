/* Wine 8 has no bcryptprimitives.dll, which the standard library of Rust takes its random numbers from. */
#include <stddef.h>
unsigned char __stdcall SystemFunction036(void *buffer, unsigned long len); /* RtlGenRandom */
__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *buffer, size_t len) { return SystemFunction036(buffer, len); }
