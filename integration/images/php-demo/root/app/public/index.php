<?php
// A shop's totals at /, and at /random one draw from every source of randomness that a clone could share.
header('Content-Type: application/json');

switch (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
case '/':
    $totals = [];
    for ($i = 0; $i < 20000; $i++) {
        $shop = 'shop-' . $i % 50;
        $totals[$shop] = ($totals[$shop] ?? 0) + $i * 7919 % 1000;
    }
    arsort($totals);
    echo json_encode(array_slice($totals, 0, 5)), "\n";
    break;
case '/random':
    echo json_encode(['mt_rand' => mt_rand(), 'random_int' => random_int(0, PHP_INT_MAX), 'uniqid' => uniqid('', true)]), "\n";
    break;
case '/pid':
    echo getmypid(), "\n";
    break;
default:
    http_response_code(404);
}
