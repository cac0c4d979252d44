package bake

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Kind is a way to ask an app whether it is ready.
type Kind string

const (
	// HTTP is ready when a GET of the target URL is answered with a status from 200 to 399.
	HTTP Kind = "http"
	// TCP is ready when a connection to the target address is accepted.
	TCP Kind = "tcp"
	// Log is ready when a line on stdout or stderr matches the target, a regular expression.
	Log Kind = "log"
	// File is ready when the target, an absolute path, exists inside the container.
	File Kind = "file"
	// Exec is ready when the target, a command line, run inside the container as the app's user, exits with 0.
	Exec Kind = "exec"
)

// DefaultTimeout is how long an app may take to become ready when the bake does not say.
const DefaultTimeout = time.Minute

// readinessForms is what every error about a readiness shows.
const readinessForms = "accepted: http://:8080/path, tcp://:6379, log=<regular expression>, file=/path, exec=<command with arguments>"

// Readiness says when an app counts as booted.
type Readiness struct {
	Kind Kind
	// Target in its full form: a URL and an address name the loopback address and the port.
	Target string
	// Timeout until the app must be ready; 0 is DefaultTimeout.
	Timeout time.Duration
}

// ParseReadiness reads a readiness as a user writes it: http://:8080/path, tcp://:6379 (or tcp=:6379), log=<regular expression>,
// file=/path or exec=<command with arguments>. The error for anything else shows these forms.
func ParseReadiness(s string) (Readiness, error) {
	kind, target := split(s)
	target, err := normalize(kind, target)
	if err != nil {
		return Readiness{}, fmt.Errorf("parse readiness %q: %w; %s", s, err, readinessForms)
	}
	return Readiness{Kind: kind, Target: target}, nil
}

// ReadinessOf reads a readiness that came over the API. It is checked as strictly as one that a user wrote.
func ReadinessOf(r *api.Readiness) (Readiness, error) {
	kind := Kind(r.GetKind())
	target, err := normalize(kind, r.GetTarget())
	if err != nil {
		return Readiness{}, fmt.Errorf("read readiness %s %q: %w; %s", kind, r.GetTarget(), err, readinessForms)
	}
	if r.GetTimeoutNanoseconds() < 0 {
		return Readiness{}, fmt.Errorf("read readiness %s %q: timeout %s is negative", kind, target, time.Duration(r.GetTimeoutNanoseconds()))
	}
	return Readiness{Kind: kind, Target: target, Timeout: time.Duration(r.GetTimeoutNanoseconds())}, nil
}

// API gives the readiness as the API carries it.
func (r Readiness) API() *api.Readiness {
	return &api.Readiness{Kind: string(r.Kind), Target: r.Target, TimeoutNanoseconds: int64(r.Timeout)}
}

// String gives a form that ParseReadiness accepts.
func (r Readiness) String() string {
	switch r.Kind {
	case HTTP:
		return r.Target
	case TCP:
		return "tcp://" + r.Target
	default:
		return string(r.Kind) + "=" + r.Target
	}
}

func (r Readiness) timeout() time.Duration {
	if r.Timeout == 0 {
		return DefaultTimeout
	}
	return r.Timeout
}

// match is the expression that a line of the log must match; nil: readiness is another.
func (r Readiness) match() (*regexp.Regexp, error) {
	if r.Kind != Log {
		return nil, nil
	}
	return regexp.Compile(r.Target)
}

// split separates kind and target without judging them. The target of http keeps its scheme.
func split(s string) (Kind, string) {
	if scheme, rest, ok := strings.Cut(s, "://"); ok && !strings.Contains(scheme, "=") {
		if Kind(scheme) == TCP {
			return TCP, rest
		}
		return Kind(scheme), s
	}
	kind, target, _ := strings.Cut(s, "=")
	return Kind(kind), target
}

func normalize(kind Kind, target string) (string, error) {
	switch kind {
	case HTTP:
		return normalizeURL(target)
	case TCP:
		return loopback(target, "")
	case Log:
		if target == "" {
			return "", errors.New("the regular expression is empty")
		}
		_, err := regexp.Compile(target)
		return target, err
	case File:
		if !path.IsAbs(target) {
			return "", errors.New("the path is not absolute")
		}
		return path.Clean(target), nil
	case Exec:
		words, err := SplitWords(target)
		if err == nil && len(words) == 0 {
			err = errors.New("the command is empty")
		}
		return target, err
	case "https":
		return "", errors.New("https is not spoken while baking: ask the app's plain port, or use tcp://:<port>")
	default:
		return "", fmt.Errorf("kind %q is unknown", kind)
	}
}

func normalizeURL(target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		// url.Error repeats the target, which the caller shows already.
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return "", err
	}
	if u.Scheme != "http" {
		return "", errors.New("the URL does not begin with http://")
	}
	if u.User != nil {
		return "", errors.New("the URL carries a user: ask a path that needs none")
	}
	if u.Host, err = loopback(u.Host, "80"); err != nil {
		return "", err
	}
	if u.Path == "" {
		u.Path = "/"
	}
	u.Fragment = ""
	return u.String(), nil
}

// loopback gives host:port with the address through which the app is asked. The container has no network but lo while it is baked,
// so any other host can only be a mistake.
func loopback(hostport, defaultPort string) (string, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		if defaultPort == "" || strings.Contains(hostport, ":") {
			return "", fmt.Errorf("%q is not host:port", hostport)
		}
		host, port = hostport, defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	switch host {
	case "", "localhost", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() {
		return "", fmt.Errorf("host %q is not reached: the container has only lo while it is baked, leave the host out", host)
	}
	return net.JoinHostPort(host, port), nil
}

// SplitWords cuts a command line at blanks. Quotes of both kinds keep blanks, a backslash keeps the next character; inside single
// quotes nothing is special. There are no variables, globs or pipes: exec=sh -c '…' has them.
func SplitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("quote %c is not closed", quote)
	}
	if escaped {
		return nil, errors.New("a backslash ends the command")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
