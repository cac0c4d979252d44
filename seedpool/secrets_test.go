package seedpool

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestWhatLooksSecretIsNotBaked(t *testing.T) {
	for variable, secret := range map[string]bool{
		"DB_PASSWORD=geheim": true, "PGPASSWORD=geheim": true, "db_password=geheim": true, "GITHUB_TOKEN=geheim": true, "TOKEN_OF_GITHUB=geheim": true, "CLIENT_SECRET=geheim": true,
		"SECRET_KEY_BASE=geheim": true, "API_KEY=geheim": true, "STRIPE_APIKEY=geheim": true, "MYSQL_PWD=geheim": true, "SMTP_PASS=geheim": true, "AWS_ACCESS_KEY_ID=AKIA": true,
		"AWS_SESSION_NAME=me": true, "GOOGLE_APPLICATION_CREDENTIALS={}": true, "TLS=-----BEGIN EC PRIVATE KEY-----\n": true, "KEY=geheim": true,
		"DATABASE_URL=postgres://app:geheim@db:5432/shop": true, "CACHE=redis://:geheim@cache": true,
		"DB_PASSWORD=": false, "DB_PASSWORD": false, "POSTGRES_PASSWORD_FILE=/run/secrets/db": false, "PWD=/app": false, "OLDPWD=/": false, "TOKENIZERS_PARALLELISM=1": false,
		"GPG_KEY=A035C8": false, "JWT_PUBLIC_KEY=abc": false, "AWS_REGION=eu-central-1": false, "DATABASE_URL=postgres://app@db/shop": false, "KEYBOARD=de": false, "MONKEY=1": false,
		"PATH=/usr/bin": false, "AUTHOR=me": false, "COMPASS=north": false,
	} {
		spec := &specs.Spec{Process: &specs.Process{Env: []string{"A=1", variable}}}
		err := withhold(&api.BakeRequest{Mode: ModeClone}, spec)
		if (err != nil) != secret {
			t.Errorf("%q: %v", variable, err)
		}
		name, _, _ := strings.Cut(variable, "=")
		if secret && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--late-env "+name) || !strings.Contains(err.Error(), "--allow-secrets") || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%q: it is said: %v", variable, err)
		}
		for _, allowed := range []*api.BakeRequest{{Mode: ModeClone, AllowSecrets: true}, {Mode: ModePrestart}} {
			if err := withhold(allowed, spec); err != nil || spec.Process.Env[1] != variable {
				t.Errorf("%q with %v: %v", variable, allowed, err)
			}
		}
		if err := withhold(&api.BakeRequest{Mode: ModeClone, LateEnv: []string{name}}, spec); err != nil || secret && spec.Process.Env[1] != name+"=" {
			t.Errorf("%q, late: %v, %q", variable, err, spec.Process.Env)
		}
	}
}

func TestMountsOfSecretsAreNotBaked(t *testing.T) {
	const volumes = "/var/lib/kubelet/pods/1b4e28ba/volumes/"
	for _, c := range []struct {
		destination, source string
		secret              bool
	}{
		{"/var/run/secrets/kubernetes.io/serviceaccount", volumes + "kubernetes.io~projected/kube-api-access-x", true},
		{"/run/secrets/db", "/srv/db", true},
		{"/etc/tls", volumes + "kubernetes.io~secret/tls", true},
		{"/etc/app", volumes + "kubernetes.io~configmap/app", false},
		{"/run/secretservice", "/srv", false},
	} {
		spec := &specs.Spec{Process: &specs.Process{}, Mounts: []specs.Mount{{Destination: c.destination, Source: c.source, Type: "bind"}}}
		err := withhold(&api.BakeRequest{Mode: ModeClone}, spec)
		if (err != nil) != c.secret || c.secret && !strings.Contains(err.Error(), "--late-mount "+c.destination) {
			t.Errorf("%s from %s: %v", c.destination, c.source, err)
		}
		if err := withhold(&api.BakeRequest{Mode: ModeClone, LateMounts: []string{c.destination}}, spec); err != nil {
			t.Errorf("%s, late: %v", c.destination, err)
		}
	}
}
