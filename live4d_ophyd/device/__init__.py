"""The Bluesky device: `live4d.Live4D`, its signals, and the settings of the detector and of the scan."""
