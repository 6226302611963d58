from mnm_rl.cores.implementations import Plain


class Reversible(Plain):
    name = "reversible"

    @classmethod
    def refusal(cls, core):
        return "not yet"
