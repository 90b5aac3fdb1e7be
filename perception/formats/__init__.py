"""What files hold, packed and unpacked side by side: for those who write them and for those who read them."""
