package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// assignTimeout bounds all of what sproutd may take to give an idle shim: a shim that is started here costs less than twice that.
const assignTimeout = 100 * time.Millisecond

// assign asks sproutd for an idle shim and returns the address at which it serves.
func assign(p params) (string, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(firstOf(os.Getenv("SPROUT_RUN_DIR"), "/run/sprout"), "assign.sock"), assignTimeout)
	if err != nil {
		return "", fmt.Errorf("ask sproutd for shim: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(assignTimeout)); err != nil {
		return "", fmt.Errorf("ask sproutd for shim: %w", err)
	}
	// The newline that ends the request is Encode's.
	if err := json.NewEncoder(conn).Encode(struct {
		Op string `json:"op"`
		params
	}{"assign", p}); err != nil {
		return "", fmt.Errorf("ask sproutd for shim: %w", err)
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return "", fmt.Errorf("ask sproutd for shim: %w", err)
	}
	var reply struct {
		Address string `json:"address"`
		Error   string `json:"error"`
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return "", fmt.Errorf("ask sproutd for shim: %w", err)
	}
	if reply.Error != "" {
		return "", fmt.Errorf("ask sproutd for shim: %w", errors.New(reply.Error))
	}
	if reply.Address == "" {
		return "", errors.New("ask sproutd for shim: answer has no address")
	}
	return reply.Address, nil
}
