package manifest

import "github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"

// Drivers returns the userspace drivers that the manifests ask for, each with the names of their NodeENIs.
func (s *Source) Drivers() (map[string][]string, error) {
	snapshot, err := s.List()
	if err != nil {
		return nil, err
	}
	drivers := map[string][]string{}
	for _, o := range snapshot.Objects {
		if o = o.Defaulted(); o.Spec.Case() == v1alpha1.Case3DPDK {
			drivers[o.Spec.DPDKDriver] = append(drivers[o.Spec.DPDKDriver], o.Name)
		}
	}
	return drivers, nil
}
