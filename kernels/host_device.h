/* host_device.h - MK_HD marks a function whose source serves host and device code */
#ifndef MK_HOST_DEVICE_H
#define MK_HOST_DEVICE_H

#ifdef __CUDACC__
#define MK_HD __host__ __device__
#else
#define MK_HD
#endif

#endif
