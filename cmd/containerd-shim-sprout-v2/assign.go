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

const (
	// assignTimeout bounds all of what sproutd may take to give an idle shim: a shim that is started here costs less than twice that.
	assignTimeout = 100 * time.Millisecond
	// lateTimeout is for an answer that came too late and still matters.
	lateTimeout = time.Second
)

// question is a request for an idle shim that sproutd has been sent.
type question struct {
	conn net.Conn
	read *bufio.Reader
}

// ask asks sproutd for an idle shim.
func ask(p params) (*question, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(firstOf(os.Getenv("SPROUT_RUN_DIR"), "/run/sprout"), "assign.sock"), assignTimeout)
	if err != nil {
		return nil, fmt.Errorf("ask sproutd for shim: %w", err)
	}
	err = conn.SetWriteDeadline(time.Now().Add(assignTimeout))
	if err == nil {
		// The newline that ends the request is Encode's.
		err = json.NewEncoder(conn).Encode(struct {
			Op string `json:"op"`
			params
		}{"assign", p})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask sproutd for shim: %w", err), conn.Close())
	}
	return &question{conn: conn, read: bufio.NewReader(conn)}, nil
}

// answer waits for the address at which an idle shim now serves. After a timeout it may be called again.
func (q *question) answer(timeout time.Duration) (string, error) {
	if err := q.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", fmt.Errorf("wait for shim: %w", err)
	}
	line, err := q.read.ReadBytes('\n')
	if err != nil {
		return "", fmt.Errorf("wait for shim: %w", err)
	}
	var reply struct {
		Address string `json:"address"`
		Error   string `json:"error"`
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return "", fmt.Errorf("decode answer of sproutd: %w", err)
	}
	if reply.Error != "" || reply.Address == "" {
		return "", fmt.Errorf("sproutd gives no shim: %w", errors.New(reply.Error))
	}
	return reply.Address, nil
}

// close ends the question. sproutd takes back a shim whose address it cannot tell any more.
func (q *question) close() { _ = q.conn.Close() }
