package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// Types of FastCGI's records, as far as a client of one request a connection has to do with them.
const (
	fcgiBegin  = 1
	fcgiEnd    = 3
	fcgiParams = 4
	fcgiStdin  = 5
	fcgiStdout = 6
	fcgiStderr = 7
)

func fcgiRecord(kind byte, content string) []byte {
	head := []byte{1, kind, 0, 1, 0, 0, 0, 0} // version, kind, number of the request, length, padding
	binary.BigEndian.PutUint16(head[4:], uint16(len(content)))
	return append(head, content...)
}

// askFPM has php-fpm run the demo's page, as a web server would.
func askFPM(pid, requests int) error {
	return stack.InNetNS(pid, func() error {
		for n := range requests {
			if err := askFPMOnce(); err != nil {
				return fmt.Errorf("request %d of %d: %w", n+1, requests, err)
			}
		}
		return nil
	})
}

func askFPMOnce() error {
	conn, err := net.DialTimeout("tcp4", "127.0.0.1:9000", 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	var params strings.Builder
	for _, p := range [][2]string{{"SCRIPT_FILENAME", "/app/public/index.php"}, {"REQUEST_URI", "/"}, {"REQUEST_METHOD", "GET"}} {
		params.Write([]byte{byte(len(p[0])), byte(len(p[1]))})
		params.WriteString(p[0] + p[1])
	}
	begin := "\x00\x01\x00\x00\x00\x00\x00\x00" // a responder, and the connection is closed behind it
	request := bytes.Join([][]byte{fcgiRecord(fcgiBegin, begin), fcgiRecord(fcgiParams, params.String()), fcgiRecord(fcgiParams, ""), fcgiRecord(fcgiStdin, "")}, nil)
	if _, err := conn.Write(request); err != nil {
		return err
	}
	page, err := readFPM(conn)
	if err == nil && !strings.Contains(page, `"shop-`) {
		err = fmt.Errorf("php-fpm says %q", page)
	}
	return err
}

// readFPM reads the records of an answer.
func readFPM(conn io.Reader) (page string, err error) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return page, err
		}
		content := make([]byte, int(binary.BigEndian.Uint16(head[4:]))+int(head[6]))
		if _, err := io.ReadFull(conn, content); err != nil {
			return page, err
		}
		switch content = content[:len(content)-int(head[6])]; head[1] {
		case fcgiStdout:
			page += string(content)
		case fcgiStderr:
			return page, fmt.Errorf("php-fpm complains: %s", content)
		case fcgiEnd:
			return page, nil
		}
	}
}
