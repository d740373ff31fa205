// Precompiled once for the Python extension.
#pragma once

#include <torch/extension.h>
