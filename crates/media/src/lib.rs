//! Bytes to arrays: images, audio and video, with limits, as the reference tools do it.
