/* emu_impl.h - between the two halves of the emulator */
#ifndef MK_EMU_IMPL_H
#define MK_EMU_IMPL_H

#include <cstdint>

namespace emu {

/* From now on the device's calls fail with this code and text. */
void device_fault(int code, const char *text);
bool injected_fault(int64_t launch); /* is this the launch that MOCL_EMU_FAULT names? */
bool order_is_reverse();

} // namespace emu

#endif
