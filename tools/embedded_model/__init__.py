"""Steps of tools/train_embedded_model.py: corpus, tokenizer, training, export, model card."""
