//! Multimodal Transformers: from a table of text, images, audio and video to a working model.
