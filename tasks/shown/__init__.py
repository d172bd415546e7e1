"""What a person sees: numbers, pictures and plots."""
