"""The method of Forget-Me-Not, free of any user interface: torch and safetensors only."""
