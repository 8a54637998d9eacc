"""The control plane of shoal: releases, fleet, rollouts, telemetry, and the interfaces to them."""
