<?php
// Gives each request of an instance that was woken random numbers of its own: auto_prepend_file = /reseed/php/reseed.php
//
// PHP keeps the state of mt_rand, rand, shuffle and the like in its process, and all instances of a seed wake with the same. random_int and random_bytes ask the kernel
// anyway. lcg_value, and the last digits of uniqid('', true), cannot be reseeded, and neither can openssl_random_pseudo_bytes.
mt_srand(random_int(0, PHP_INT_MAX));
