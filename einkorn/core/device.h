// Where work runs.
#pragma once

#include <string>

namespace einkorn {

enum class Device { cpu, cuda };

std::string to_string(Device device);

// Parses "cpu" or "cuda"; throws InvalidArgument for anything else.
Device parse_device(const std::string& name);

// Throws InvalidArgument that says why when this build or this machine cannot run on the device.
void require_available(Device device);

// True where require_available would not throw.
bool is_available(Device device);

// Waits until all work queued on the device is done.
void synchronize(Device device);

}  // namespace einkorn
