package seedpool

import (
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// A memory image keeps what the app has read, so what is secret must be kept away from a bake of mode clone. How that is told: by names, since values tell little.
var (
	// secretWords make a variable secret whose name has one of them as a word, or at the end of a word: DB_PASSWORD, PGPASSWORD, TOKEN_GITHUB, but not TOKENIZERS.
	secretWords = []string{"PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "SECRETS", "TOKEN", "CREDENTIAL", "CREDENTIALS", "APIKEY"}
	// secretEnds are the last words of such names: API_KEY, MYSQL_PWD.
	secretEnds = []string{"KEY", "PASS", "PWD"}
	// secretStarts are of families all of whose variables are taken for secret.
	secretStarts = []string{"AWS_"}
	// plainEnds are the ends of names of what is public, or leads to a secret that lies elsewhere: POSTGRES_PASSWORD_FILE.
	plainEnds = []string{"_FILE", "_PATH", "_DIR", "PUBLIC_KEY", "GPG_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"}
	// plainNames are not what their words say.
	plainNames = []string{"PWD", "OLDPWD"}

	// secretPlaces are where tools mount secrets in a container, secretSources where a kubelet has volumes of secrets and of service accounts' tokens.
	secretPlaces  = []string{"/run/secrets", "/var/run/secrets"}
	secretSources = []string{"/kubernetes.io~secret/", "/kubernetes.io~projected/"}
)

// withhold has a spec that is to be baked in mode clone without what is secret, or refuses it: a late variable is empty while baked, a late mount is not there anyway.
func withhold(r *api.BakeRequest, spec *specs.Spec) error {
	if r.AllowSecrets || r.Mode != ModeClone || spec.Process == nil {
		return nil
	}
	var found, fixes []string
	for n, variable := range spec.Process.Env {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case !isSecret(name, value):
		case slices.Contains(r.LateEnv, name):
			spec.Process.Env[n] = name + "="
		default:
			found, fixes = append(found, "variable "+name), append(fixes, "--late-env "+name)
		}
	}
	for _, m := range spec.Mounts {
		if isSecretMount(m) && !slices.Contains(r.LateMounts, path.Clean(m.Destination)) {
			found, fixes = append(found, "mount "+m.Destination), append(fixes, "--late-mount "+m.Destination)
		}
	}
	if len(found) == 0 {
		// The request is kept, for when the seed is baked again.
		data, err := json.Marshal(spec)
		r.Spec = data
		return err
	}
	return fail(errdefs.ErrFailedPrecondition, "%s: this looks secret, and what the app reads while it is baked ends in the seed's memory image, and in every instance. "+
		"Declare it late (%s): it is empty or absent while baked, and each container has its own, a variable in /run/sprout/env. Or, if it may be in the seed, --allow-secrets",
		strings.Join(found, ", "), strings.Join(fixes, " "))
}

// isSecret says whether a variable looks secret.
func isSecret(name, value string) bool {
	if value == "" {
		return false
	}
	// DATABASE_URL=postgres://app:geheim@db/shop
	if u, err := url.Parse(value); err == nil && u.Host != "" && u.User != nil {
		if password, _ := u.User.Password(); password != "" {
			return true
		}
	}
	if strings.Contains(value, "PRIVATE KEY-----") {
		return true
	}
	name = strings.ToUpper(name)
	if slices.Contains(plainNames, name) || slices.ContainsFunc(plainEnds, func(end string) bool { return strings.HasSuffix(name, end) }) {
		return false
	}
	words := strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune("_-.", r) })
	return len(words) > 0 && slices.Contains(secretEnds, words[len(words)-1]) ||
		slices.ContainsFunc(secretStarts, func(start string) bool { return strings.HasPrefix(name, start) }) ||
		slices.ContainsFunc(words, func(word string) bool {
			return slices.ContainsFunc(secretWords, func(secret string) bool { return strings.HasSuffix(word, secret) })
		})
}

// isSecretMount says whether a mount looks like one of secrets.
func isSecretMount(m specs.Mount) bool {
	return slices.ContainsFunc(secretPlaces, func(place string) bool { return strings.HasPrefix(path.Clean(m.Destination)+"/", place+"/") }) ||
		slices.ContainsFunc(secretSources, func(source string) bool { return strings.Contains(m.Source+"/", source) })
}
