// Package registry makes the images of a node's containers and serves them as Docker Hub would (OCI Distribution Specification, pulling).
package registry

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry serves images by repository; every tag of a repository is the same image.
type Registry struct {
	// Refuse, when it is not nil, is asked before each pull of a manifest: an HTTP status other than 0 answers it.
	Refuse func(client, repository string) int

	mu     sync.Mutex
	images map[string]v1.Image
	blobs  map[string][]byte
	pulls  map[string]int // by client and repository
}

// New registry without images.
func New() *Registry {
	return &Registry{images: map[string]v1.Image{}, blobs: map[string][]byte{}, pulls: map[string]int{}}
}

// File of an image: its content, or where that is.
type File struct {
	Path, From string
	Content    []byte
}

// Layer of files. It is not compressed: a node has better things to do than to inflate it.
func Layer(files ...File) (v1.Layer, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	// Services expect these directories.
	for _, directory := range []string{"tmp", "data", "etc", "output"} {
		if err := writer.WriteHeader(&tar.Header{Name: directory + "/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
			return nil, err
		}
	}
	for _, file := range files {
		content := file.Content
		if file.From != "" {
			var err error
			if content, err = os.ReadFile(file.From); err != nil {
				return nil, err
			}
		}
		if err := writer.WriteHeader(&tar.Header{Name: strings.TrimPrefix(file.Path, "/"), Mode: 0o755, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := writer.Write(content); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(buffer.Bytes(), types.DockerUncompressedLayer), nil
}

// Program of an extracted tree, with the libraries that it needs.
func Program(tree, program string) (files []File, err error) {
	libraries := filepath.Join(tree, "usr/lib/x86_64-linux-gnu")
	loader := filepath.Join(libraries, "ld-linux-x86-64.so.2")
	if _, err := os.Stat(loader); err != nil {
		loader = filepath.Join(tree, "usr/lib64/ld-linux-x86-64.so.2")
	}
	output, err := exec.Command(loader, "--library-path", libraries, "--list", filepath.Join(tree, program)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s --list %s: %w: %s", loader, program, err, output)
	}
	files = []File{{Path: program, From: filepath.Join(tree, program)}, {Path: "/lib64/ld-linux-x86-64.so.2", From: loader}}
	for _, match := range regexp.MustCompile(`=> (\S+/)(\S+) `).FindAllStringSubmatch(string(output), -1) {
		files = append(files, File{Path: "/usr/lib/x86_64-linux-gnu/" + match[2], From: match[1] + match[2]})
	}
	return files, nil
}

// Add serves an image of these layers as a repository. Its entry point is the first argument of all that it runs. The label makes each repository's
// manifest one of its own: containerd locks a manifest while it is pulled.
func (r *Registry) Add(entrypoint, repository string, layers ...v1.Layer) error {
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.DockerManifestSchema2), layers...)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config = v1.Config{Entrypoint: []string{entrypoint}, Env: []string{"PATH=/usr/bin:/bin"}, WorkingDir: "/", Labels: map[string]string{"repository": repository}}
	if image, err = mutate.ConfigFile(mutate.ConfigMediaType(image, types.DockerConfigJSON), config); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		if r.blobs[digest.String()] != nil {
			continue
		}
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		if r.blobs[digest.String()], err = io.ReadAll(content); err != nil {
			return err
		}
	}
	name, err := image.ConfigName()
	if err != nil {
		return err
	}
	if r.blobs[name.String()], err = image.RawConfigFile(); err != nil {
		return err
	}
	r.images[repository] = image
	return nil
}

// Pulls of all repositories by a client's address.
func (r *Registry) Pulls(client string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	total := 0
	for key, count := range r.pulls {
		if strings.HasPrefix(key, client+" ") {
			total += count
		}
	}
	return total
}

var path = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)

// ServeHTTP answers a pull.
func (r *Registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if request.URL.Path == "/v2/" {
		return
	}
	match := path.FindStringSubmatch(request.URL.Path)
	if match == nil {
		http.NotFound(w, request)
		return
	}
	client, _, _ := net.SplitHostPort(request.RemoteAddr)
	repository, kind, reference := match[1], match[2], match[3]
	r.mu.Lock()
	image, blob := r.images[repository], r.blobs[reference]
	refuse := r.Refuse
	if kind == "manifests" && request.Method == http.MethodGet {
		r.pulls[client+" "+repository]++
	}
	r.mu.Unlock()
	switch {
	case image == nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"no repository %s"}]}`, repository)
	case kind == "manifests":
		if refuse != nil {
			if code := refuse(client, repository); code != 0 {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
				return
			}
		}
		manifest, err := image.RawManifest()
		digest, err2 := image.Digest()
		if err != nil || err2 != nil {
			http.Error(w, "no manifest", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
		w.Header().Set("Docker-Content-Digest", digest.String())
		w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
		if request.Method == http.MethodGet {
			_, _ = w.Write(manifest)
		}
	case blob == nil:
		http.NotFound(w, request)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Header().Set("Docker-Content-Digest", reference)
		_, _ = w.Write(blob)
	}
}
