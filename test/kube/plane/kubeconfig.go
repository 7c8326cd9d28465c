package plane

import (
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

func (p *Plane) config(user string, groups ...string) (*rest.Config, error) {
	key, err := p.authority.client(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: "https://" + Address, QPS: -1, // without a limit
		TLSClientConfig: rest.TLSClientConfig{CAData: p.authority.pem, CertData: key.cert, KeyData: key.key},
	}, nil
}

// WriteUserKubeconfig writes a kubeconfig of a user with a certificate.
func (p *Plane) WriteUserKubeconfig(path, user string, groups ...string) error {
	key, err := p.authority.client(user, groups...)
	if err != nil {
		return err
	}
	return p.writeKubeconfig(path, Address, &api.AuthInfo{ClientCertificateData: key.cert, ClientKeyData: key.key})
}

// WriteTokenKubeconfig writes a kubeconfig with a token file, which may be replaced, for the API server at address.
func (p *Plane) WriteTokenKubeconfig(path, address, tokenFile string) error {
	return p.writeKubeconfig(path, address, &api.AuthInfo{TokenFile: tokenFile})
}

func (p *Plane) writeKubeconfig(path, address string, user *api.AuthInfo) error {
	const name = "test"
	return clientcmd.WriteToFile(api.Config{
		Clusters:       map[string]*api.Cluster{name: {Server: "https://" + address, CertificateAuthorityData: p.authority.pem}},
		AuthInfos:      map[string]*api.AuthInfo{name: user},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}, path)
}
